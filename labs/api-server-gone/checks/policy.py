#!/usr/bin/python3
# What the audit policy makes of requests, as the API server reads it: the first rule that fits decides.
import glob, json, os, subprocess, sys, time

FILE = "/etc/kubernetes/audit/policy.yaml"
# Without a server: kubectl reads the YAML and writes it as JSON.
READ = ["/usr/bin/kubectl", "patch", "--local", "-f", FILE, "--type=merge", "-p", "{}", "-o", "json"]
NODE = ("a node", "system:node:node1", ["system:nodes", "system:authenticated"])
CLUSTER = ("a controller of the cluster", "system:serviceaccount:kube-system:replicaset-controller",
           ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"])
PERSON = ("somebody", "kubernetes-admin", ["kubeadm:cluster-admins", "system:authenticated"])
WANTED = [
    (NODE, "update", "coordination.k8s.io", "leases", "None"),
    (NODE, "patch", "", "nodes/status", "None"),
    (CLUSTER, "get", "", "configmaps", "None"),
    (CLUSTER, "create", "", "pods", "None"),
    (PERSON, "get", "", "secrets", "Metadata"),
    (PERSON, "list", "", "secrets", "Metadata"),
    (PERSON, "watch", "", "secrets", "Metadata"),
    (PERSON, "create", "", "secrets", "Metadata"),
    (PERSON, "create", "", "pods", "Metadata"),
    (PERSON, "update", "apps", "deployments", "Metadata"),
    (PERSON, "patch", "", "services", "Metadata"),
    (PERSON, "delete", "", "configmaps", "Metadata"),
    (PERSON, "deletecollection", "batch", "jobs", "Metadata"),
]


def fits(rule, who, verb, group, resource):
    _, user, groups = who
    if rule.get("users") and user not in rule["users"]:
        return False
    if rule.get("userGroups") and not set(groups) & set(rule["userGroups"]):
        return False
    if rule.get("verbs") and verb not in rule["verbs"]:
        return False
    if rule.get("nonResourceURLs") or rule.get("namespaces"):
        return False
    kind, _, part = resource.partition("/")
    names = {resource, "*", kind + "/*" if part else resource, "*/" + part if part else resource}
    of = rule.get("resources")
    return not of or any(
        r.get("group", "") == group and not r.get("resourceNames") and (not r.get("resources") or names & set(r["resources"]))
        for r in of
    )


def started():
    """When the API server's process began, by the machine's clock: it reads its policy then, and never again."""
    for comm in glob.glob("/proc/[0-9]*/comm"):
        try:
            if open(comm).read().strip() != "kube-apiserver":
                continue
            ticks = int(open(os.path.dirname(comm) + "/stat").read().rsplit(")", 1)[1].split()[19])
        except OSError:
            continue
        up = float(open("/proc/uptime").read().split()[0])
        return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    return None


read = subprocess.run(READ, env={"KUBECONFIG": "/dev/null", "KUBERC": "off"}, capture_output=True, text=True)
if read.returncode:
    print("The policy can't be read:", read.stderr.strip()[:300])
    sys.exit(1)
rules = json.loads(read.stdout).get("rules") or []
wrong = []
for who, verb, group, resource, wanted in WANTED:
    level = next((rule.get("level") for rule in rules if fits(rule, who, verb, group, resource)), "None")
    if level != wanted:
        wrong.append(f"When {who[0]} does {verb} on {resource}, the policy's level is {level}.")
if wrong:
    print(*wrong[:4], *(["…"] if wrong[4:] else []), sep="\n")
    sys.exit(1)
began = started()
if began is None:
    print("The API server does not run.")
    sys.exit(1)
if os.stat(FILE).st_mtime > began + 1:
    print("The API server goes by an older policy than the one that the file holds.")
    sys.exit(1)
print(f"The policy has {len(rules)} rules, and they do what its comments say.")
