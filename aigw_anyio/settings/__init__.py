"""The operator's configuration: from TOML file and environment to settings, and on to a core policy."""

from aigw_anyio.settings.checks import max_connections
from aigw_anyio.settings.fields import ListenAddr
from aigw_anyio.settings.load import SettingsError, load_settings
from aigw_anyio.settings.model import LogFormat, LogLevel, Settings

__all__ = [
    "ListenAddr",
    "LogFormat",
    "LogLevel",
    "Settings",
    "SettingsError",
    "load_settings",
    "max_connections",
]
