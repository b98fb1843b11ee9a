#!/bin/bash
# Writes the right address into /etc/hosts: the shop works until inventory moves.
set -euo pipefail

sed -i 's/^10\.90\.0\.70 /10.90.0.7 /' /etc/hosts
curl -fs -m 20 http://127.0.0.1:8080/
