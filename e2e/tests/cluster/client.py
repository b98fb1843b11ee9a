"""Uses a cluster with Python's client, with a dozen watches of tables open, as k9s has."""

import json
import sys
import threading
import time

from kubernetes import client, config
from kubernetes.stream import stream

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
WATCHED = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "configmaps": "/api/v1/configmaps",
    "secrets": "/api/v1/secrets",
    "events": "/api/v1/events",
    "nodes": "/api/v1/nodes",
    "namespaces": "/api/v1/namespaces",
    "deployments": "/apis/apps/v1/deployments",
    "replicasets": "/apis/apps/v1/replicasets",
    "statefulsets": "/apis/apps/v1/statefulsets",
    "daemonsets": "/apis/apps/v1/daemonsets",
    "jobs": "/apis/batch/v1/jobs",
}

config.load_kube_config(sys.argv[1])
api = client.ApiClient()
core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
assert any(node.metadata.name == "node1" for node in core.list_node().items)

seen = {name: 0 for name in WATCHED}
failed = []


def get(path, query):
    """Requests a table. Returns the response as a stream."""
    asked = api.param_serialize("GET", path, query_params=query, header_params={"Accept": TABLE},
                                auth_settings=["BearerToken"])
    return api.call_api(*asked).response


def follow(name, path):
    try:
        listed = json.loads(get(path, []).read())
        assert listed["kind"] == "Table", listed["kind"]
        version = listed["metadata"]["resourceVersion"]
        query = [("watch", "true"), ("resourceVersion", version), ("allowWatchBookmarks", "true")]
        answer = get(path, query)
        buffer = b""
        for chunk in answer.stream(amt=None):
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            seen[name] += sum(1 for line in lines if json.loads(line)["type"] in ("ADDED", "MODIFIED"))
    except Exception as error:  # Reported by the main thread.
        failed.append(f"{name}: {error!r}")


for name, path in WATCHED.items():
    threading.Thread(target=follow, args=(name, path), daemon=True).start()
time.sleep(10)
labels = {"app": "teapot"}
container = client.V1Container(name="teapot", image="docker.io/library/busybox:1.35", command=["sleep", "600"],
                               image_pull_policy="IfNotPresent")
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels=labels),
    spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0))
apps.create_namespaced_deployment("default", client.V1Deployment(
    metadata=client.V1ObjectMeta(name="teapot"),
    spec=client.V1DeploymentSpec(selector=client.V1LabelSelector(match_labels=labels), template=template)))
core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="teapot")))

wanted = ("configmaps", "deployments", "replicasets", "pods", "events")
deadline = time.time() + 240
pod = None
while time.time() < deadline and not failed:
    pods = core.list_namespaced_pod("default", label_selector="app=teapot").items
    ready = [p for p in pods if p.status.container_statuses and p.status.container_statuses[0].ready]
    if ready and all(seen[name] for name in wanted):
        pod = ready[0].metadata.name
        break
    time.sleep(2)
assert not failed, failed
assert pod, f"the watches saw {seen}"
said = stream(core.connect_get_namespaced_pod_exec, pod, "default", command=["echo", "poured"],
              stderr=True, stdin=False, stdout=True, tty=False)
assert said.strip() == "poured", said
print("ok", seen)
