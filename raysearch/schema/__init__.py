"""A strict reader of YAML into typed dataclasses: errors name file, line and remedy. It knows no domain."""
