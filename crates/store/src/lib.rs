//! Write-ahead log with group commit.
