# The public names of hardprompts.images; `__init__.py` imports each from here on first use.
from .decoders import IMAGE_SUFFIXES, kind_of
from .files import FolderImages, caption_files, counted_files, images_in
from .folders import FolderListing, has_junk, is_junk, list_folder
from .loading import DECODING_ERRORS, ImageInput, image_weights, load_images, load_item, open_encoded
from .showing import picture_with_regions
from .views import augmented_views

__all__ = [
    "DECODING_ERRORS",
    "IMAGE_SUFFIXES",
    "FolderImages",
    "FolderListing",
    "ImageInput",
    "augmented_views",
    "caption_files",
    "counted_files",
    "has_junk",
    "image_weights",
    "images_in",
    "is_junk",
    "kind_of",
    "list_folder",
    "load_images",
    "load_item",
    "open_encoded",
    "picture_with_regions",
]
