"""Engines behind HTTP: KServe's protocol, uploads, a page, metrics; on FastAPI and uvicorn (extra [serve])."""
