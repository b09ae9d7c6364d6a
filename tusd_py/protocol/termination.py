"""Extension termination."""

from __future__ import annotations

from tusd_py.body import Body
from tusd_py.models import Request, Response
from tusd_py.protocol.base import Core, Extension, Routes


class Termination(Extension):
    """DELETE removes an upload, finished or not."""

    names = ("termination",)

    def routes(self, core: Core) -> Routes:
        """Add DELETE."""

        async def delete(request: Request, body: Body) -> Response:
            assert request.upload_id is not None
            await core.uploads.terminate(request, request.upload_id)
            # "The Server SHOULD free associated resources and MUST respond with the 204 No Content status"
            return Response(204)

        return {("upload", "DELETE"): delete}
