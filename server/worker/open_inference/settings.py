"""TraceSetting and LogSettings. Only the log level can be changed."""

from __future__ import annotations

import logging

from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.errors import InvalidInput, Unsupported

_LEVELS = (("log_info", logging.INFO), ("log_warning", logging.WARNING), ("log_error", logging.ERROR))
_TRACE = {
    "trace_level": "OFF",
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "opentelemetry",
}


def trace_setting(request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
    """The protocol's trace settings, which are off; spans are exported by OpenTelemetry (--otlp-endpoint).

    Raises:
        Unsupported: the request changes a setting.
    """
    if any(setting.value for setting in request.settings.values()):
        raise Unsupported("trace settings cannot be changed: start the server with --otlp-endpoint")
    response = pb.TraceSettingResponse()
    for name, value in _TRACE.items():
        response.settings[name].value.append(value)
    return response


def log_settings(request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
    """Change the log level if requested, and return the settings.

    Raises:
        InvalidRequest: names the setting.
    """
    root = logging.getLogger()
    if request.settings:
        root.setLevel(_level(request, root.level))
    response = pb.LogSettingsResponse()
    response.settings["log_file"].string_param = ""
    response.settings["log_format"].string_param = "default"
    response.settings["log_verbose_level"].uint32_param = int(root.level <= logging.DEBUG)
    for name, level in _LEVELS:
        response.settings[name].bool_param = root.level <= level
    return response


def _level(request: pb.LogSettingsRequest, now: int) -> int:
    """The lowest level that is switched on; verbose is below all others."""
    switches = {name: now <= level for name, level in _LEVELS}
    is_verbose = now <= logging.DEBUG
    for name, setting in request.settings.items():
        kind = setting.WhichOneof("parameter_choice")
        if name in switches and kind == "bool_param":
            switches[name] = setting.bool_param
        elif name == "log_verbose_level" and kind == "uint32_param":
            is_verbose = setting.uint32_param > 0
        elif not (name == "log_file" and not setting.string_param) and not (
            name == "log_format" and setting.string_param == "default"
        ):
            raise InvalidInput(
                name,
                f"{name}: only the log level can be changed, by log_verbose_level, log_info, log_warning, log_error",
            )
    if is_verbose:
        return logging.DEBUG
    return next((level for name, level in _LEVELS if switches[name]), logging.CRITICAL)
