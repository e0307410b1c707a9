"""The operator's configuration: from TOML file and environment to settings, and on to a core policy."""

from aigw_anyio.settings.checks import max_connections
from aigw_anyio.settings.fields import ListenAddr
from aigw_anyio.settings.load import SettingsError, load_settings
from aigw_anyio.settings.model import ADOPTED_AT_START, LogFormat, LogLevel, Settings, restartable, waits_for_restart

__all__ = [
    "ADOPTED_AT_START",
    "ListenAddr",
    "LogFormat",
    "LogLevel",
    "Settings",
    "SettingsError",
    "load_settings",
    "max_connections",
    "restartable",
    "waits_for_restart",
]
