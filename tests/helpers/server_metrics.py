"""The metrics that the server keeps and the files for deployment read."""

METRICS = {  # the server's metrics, each with its labels
    "attention_requests_total": {"method", "code"},
    "attention_streams_total": {"method", "code"},
    "attention_last_reload_success": {"file"},
    "attention_maps_total": {"pattern"},
    "attention_uncertain_maps_total": set(),
    "attention_received_bytes_total": set(),
    "attention_sent_bytes_total": set(),
    "attention_refused_total": {"reason"},
    "attention_request_seconds": {"method"},
    "attention_stage_seconds": {"stage"},
    "attention_maps_per_request": set(),
    "attention_log_lines_dropped_total": set(),
    "attention_requests_in_flight": set(),
    "attention_bytes_in_flight": set(),
    "attention_drift": {"feature"},
    "attention_model_info": {"name", "version", "sha256"},
}
