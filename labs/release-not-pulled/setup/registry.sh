#!/bin/bash
# The registry has the release, and no node does.
set -euo pipefail
/usr/lib/faultline/addons/registry tea.example/web:2.{{minor}}=tea/web:2.{{minor}}
ctr --namespace k8s.io images remove tea.example/web:2.{{minor}} >/dev/null
curl -fsS http://registry.lab:5000/v2/tea/web/tags/list | grep '"2\.{{minor}}"'
