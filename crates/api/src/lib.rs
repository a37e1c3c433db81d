//! HTTP: the OpenAI surface, Stoa's own routes, the dashboard.
