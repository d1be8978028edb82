"""A page in the browser that works on this machine alone: `hardprompts app`.

`command` is the command, `server` starts the page, `page` lays it out; `image`, `shorten`, `embedding` and `folder` are
what its tabs do, each a generator of what is known so far, and know nothing of Gradio.
"""
