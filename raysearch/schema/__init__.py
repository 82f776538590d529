"""Strict reading of YAML into typed dataclasses: errors name file, line and remedy. The package knows no domain."""
