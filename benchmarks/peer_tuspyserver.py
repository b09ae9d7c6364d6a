"""tuspyserver as an ASGI application; its directory comes from the environment."""

import os

from fastapi import FastAPI
from tuspyserver import create_tus_router

app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=os.environ["TUS_DIRECTORY"], max_size=1 << 40))
