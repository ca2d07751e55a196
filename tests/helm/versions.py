"""The Kubernetes versions that are supported."""

VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
