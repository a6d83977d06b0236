"""What can go wrong on the way to a cluster, each in one line for a terminal."""

from __future__ import annotations


class KubernetesError(Exception):
    """Common to both."""


class ManifestError(KubernetesError):
    """There are no manifests to work with."""


class ClusterError(KubernetesError):
    """What the cluster refused, or that it does not answer."""
