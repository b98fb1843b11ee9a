#!/bin/bash
set -euo pipefail
/usr/lib/faultline/addons/ingress 380s
