"""The page of the command `web`: upscales pictures in a browser and compares them with bicubic upscaling.

`start.serve` serves the page. The page upscales uploaded files with the same functions as the command `upscale`. It
does not need the internet: the scripts are part of Gradio and of this package, and the fonts are those of the system.
Only `page` and `server` import Gradio and its server, uvicorn.
"""
