"""The graph on Kubernetes: manifests rendered and checked, KubeRay's RayService applied, watched, rolled back."""
