"""Settings come from flags, environment and TOML, in this order, and what is wrong with one is said by name."""

from datetime import timedelta

import pytest

from tusd_py.config import Config, ConfigError, Size, path_of, redacted
from tusd_py.settings import fields, load, show


@pytest.fixture
def toml(tmp_path):
    """A function that writes a TOML file and returns its path."""

    def write(text):
        path = tmp_path / "tusd-py.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_need_nothing():
    """Without any setting everything has its default and no origin."""
    sources = load({}, {})
    assert sources.config == Config()
    assert sources.origin == {}


def test_flags_win_over_environment_over_file(toml):
    """Each setting is taken from the first place that gives it, and remembers that place."""
    file = toml('port = 1\nhost = "1.1.1.1"\nworkers = 3\n')
    environment = {"TUSD_PY_PORT": "2", "TUSD_PY_HOST": "2.2.2.2", "TUSD_PY_CONFIG": str(file)}
    sources = load({"port": "3"}, environment)
    assert (sources.config.port, sources.config.host, sources.config.workers) == (3, "2.2.2.2", 3)
    assert sources.origin == {"port": "--port", "host": "TUSD_PY_HOST", "workers": str(file)}


@pytest.mark.parametrize("field", [field for field in fields() if not field.is_table], ids=lambda field: field.name)
def test_every_setting_comes_from_all_three(toml, field):
    """A setting reads the same from a flag, a variable and the file."""
    config_names = {"cors_credentials": {"cors_origin": ["https://page"]}, "tls_cert": {"tls_key": "x"}}
    config_names["tls_key"] = {"tls_cert": "x"}
    also = config_names.get(field.name, {})
    text, expected = example(field)
    in_toml = f'["{text}"]' if field.is_list else text if text in ("true", "false") or text.isdigit() else f'"{text}"'
    others = "".join(f"{name} = {value if isinstance(value, list) else repr(value)}\n" for name, value in also.items())
    from_file = load({}, {}, toml(f"{field.name} = {in_toml}\n{others}")).config
    from_environment = load(also, {field.variable: text}).config
    from_flag = load({**also, field.name: [text] if field.is_list else text}, {}).config
    for config in (from_file, from_environment, from_flag):
        assert getattr(config, field.name) == expected
    assert expected != field.default


def example(field):
    """A text for a setting that is not its default, and the value that it stands for."""
    special = {
        "behind_proxy": "10.0.0.0/8",
        "public_url": "https://up.example/files/",
        "s3_key": "in/{id}",
        "s3_part_size": "6MiB",
        "s3_memory": "96MiB",
        "worker_listen": "127.0.0.1:9100",
    }
    if field.choices:
        text = next(choice for choice in field.choices if choice != field.default)
    elif field.type is bool:
        return ("false", False) if field.default else ("true", True)
    elif field.metavar == "SIZE":
        text = special.get(field.name, "3MiB")
        return text, Size(int(text.removesuffix("MiB")) * 2**20)
    elif field.metavar == "TIME":
        return "90s", timedelta(seconds=90)
    elif field.metavar == "N":
        return "7", 7
    else:
        text = special.get(field.name, "x")
    return text, [text] if field.is_list else text


def test_lists_have_commas_in_the_environment():
    """A variable holds several values between commas."""
    config = load({}, {"TUSD_PY_CORS_ORIGIN": "https://a, https://b,"}).config
    assert config.cors_origin == ["https://a", "https://b"]


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("On", True), ("1", True), ("no", False), ("off", False)])
def test_switches_in_the_environment(text, value):
    """A variable that turns something on or off takes the words that people use, and those that are shown."""
    assert load({}, {"TUSD_PY_CORS": text}).config.cors is value


def test_tables_of_plugins_come_from_the_file(toml):
    """A plugin's settings are a table, and reach it as they are."""
    config = load({}, {}, toml('[plugins.mine]\ncolour = "red"\nsizes = [1, 2]\n')).config
    assert config.plugins == {"mine": {"colour": "red", "sizes": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ('port = "many"', "port: Expected `int`"),
        ("port = 70000", "port must be between 0 and 65535"),
        ("port = ", "is not valid TOML"),
        ('max_size = "big"', "max_size: 'big' is not a size; write 1000, 64M or 10GiB"),
        ('expire_after = "soon"', "expire_after: 'soon' is not a duration; write 500ms"),
        ('fsync = "sometimes"', "fsync: Invalid enum value 'sometimes'"),
        ('disable = ["upload"]', "disable: Invalid enum value 'upload'"),
        ("workers = 0", "workers must be at least 1"),
        ("head_size = 0", "head_size must be at least 1"),
        ("create_rate = -1", "create_rate must be at least 0"),
        ('read_timeout = "0s"', "read_timeout must be more than 0"),
        ('tls_cert = "x"', "tls_cert and tls_key belong together"),
        ("cors_credentials = true", "cors_credentials needs cors_origin to name the origins"),
        ('public_url = "up.example"', "public_url must begin with http"),
        ('behind_proxy = ["everybody"]', "behind_proxy: 'everybody' does not appear to be an IPv4"),
        ("plugins = 5", "plugins: Expected `object`"),
        ('s3_key = "{date}"', "s3_key must contain {id}"),
        ('worker_listen = "9100"', "worker_listen must be HOST:PORT"),
        ('quarantine_prefix = "/held"', "quarantine_prefix must be names of letters"),
        ('quarantine_prefix = "in"\ns3_key = "in/{id}"', "s3_key must not begin with quarantine_prefix"),
        ('s3_part_size = "4MiB"', "s3_part_size must be between 5MiB and 5GiB"),
        ('s3_memory = "8MiB"', "s3_memory must hold two parts"),
        ("s3_concurrency = 0", "s3_concurrency must be at least 1"),
    ],
)
def test_what_is_wrong_is_said(toml, text, said):
    """An unknown name and an impossible value are named, with the file they are in."""
    with pytest.raises(ConfigError) as wrong:
        load({}, {}, toml(text))
    assert said in str(wrong.value)


def test_all_that_is_wrong_is_said_at_once(toml):
    """Values that cannot go together are told in one message."""
    with pytest.raises(ConfigError, match=r"port must be .*; workers must be"):
        load({"port": "-1", "workers": "0"}, {})


def test_where_a_wrong_value_was_given_is_said(toml):
    """The message begins with the flag, the variable or the file."""
    with pytest.raises(ConfigError, match=r"^--port: port:"):
        load({"port": "x"}, {})
    with pytest.raises(ConfigError, match=r"^TUSD_PY_PORT: port:"):
        load({}, {"TUSD_PY_PORT": "x"})
    with pytest.raises(ConfigError, match=r"tusd-py.toml: port:"):
        load({}, {}, toml('port = "x"'))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """A missing file and one that is no text are errors."""
    with pytest.raises(ConfigError, match=r"cannot read .*missing.toml: No such file"):
        load({}, {}, tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary.toml is not valid TOML"):
        load({}, {}, tmp_path / "binary.toml")


def test_the_directory_decides_where_everything_is():
    """Store, records and locks lie in the upload directory unless they are given."""
    config = Config(upload_dir="/srv/up")
    assert (config.store_url, config.state_url) == ("file:/srv/up", "sqlite:/srv/up/uploads.db")
    assert config.locker_url == "file:/srv/up/.locks"
    assert Config(store="memory:").store_url == "memory:"
    config = Config(redis="redis://localhost", locker="memory:")
    assert (config.store_url, config.state_url, config.locker_url) == ("file:./data", "redis://localhost", "memory:")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:data", "data"),
        ("file:./a/b", "a/b"),
        ("file:/srv", "/srv"),
        ("file:///srv", "/srv"),
        ("sqlite:x.db", "x.db"),
    ],
)
def test_paths_in_urls(url, path):
    """A URL's path may be relative, absolute, or written with an empty host."""
    assert str(path_of(url)) == path


@pytest.mark.parametrize("url", ["file:", "file://", "file://srv/up"])
def test_urls_without_a_path_are_refused(url):
    """A URL that names no path, or a host by mistake, is an error that says so."""
    with pytest.raises(ConfigError, match=r"names no path|names a host; write file:srv/up"):
        path_of(url)


def test_every_setting_has_a_line_of_help():
    """Each is told in one sentence, in a group."""
    for field in fields():
        assert field.help.endswith(".")
        assert field.group
    assert [field.name for field in fields() if field.secret] == ["api_token"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://localhost/0", "redis://localhost/0"),
        ("redis://:secret@localhost/0", "redis://:***@localhost/0"),
        ("rediss+sentinel://ada:sec@ret/@one,two/main", "rediss+sentinel://ada:***@one,two/main"),
        ("unix:///run/redis?password=secret&db=1", "unix:///run/redis?password=***&db=1"),
        ("https://uploads.example/files/", "https://uploads.example/files/"),
        ("sqlite:/a:b@c", "sqlite:/a:b@c"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    """A URL is shown without what is secret in it."""
    assert redacted(text) == show(text) == shown
