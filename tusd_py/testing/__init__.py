"""What tests of plugins and backends use: a server to start, contracts to fulfil."""
