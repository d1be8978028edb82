"""The page as a Space of the Hugging Face Hub."""

from hardprompts_app.server import serve_space

if __name__ == "__main__":
    serve_space()
