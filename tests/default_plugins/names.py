"""A plugin that believes whom a request claims to be: `Authorization: Name ann`."""

from tusd_py import Identity, hookimpl


@hookimpl
async def authenticate(request):
    kind, _, name = request.headers.get("Authorization", "").partition(" ")
    return Identity(name) if kind == "Name" and name else None


@hookimpl
def register_routes(register):
    from tusd_py import Response

    register("GET", "/whoami", lambda request: Response(200, body=request.identity.name.encode()))
