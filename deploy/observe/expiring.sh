#!/usr/bin/env bash
# Counts the keys that end soon, for the textfile collector of Prometheus' node exporter. Run it once a
# day or more often, by cron or a timer, on a machine where apikeys may reach Keycloak.
#
# usage: expiring.sh FILE [DAYS]
#   FILE   the file for the collector, such as /var/lib/prometheus/node-exporter/apikeys.prom
#   DAYS   counts keys that end within this many days (14)
# KEYCLOAK_URL, KEYCLOAK_REALM, KEYCLOAK_ADMIN_USER and KEYCLOAK_ADMIN_PASSWORD are for apikeys; the
# role view-users suffices. APIKEYS names another program than apikeys of the PATH.
set -euo pipefail

FILE=${1:?usage: expiring.sh FILE [DAYS]}
DAYS=${2:-14}
REALM=${KEYCLOAK_REALM:?set it to the realm\'s name}

# After a failure the file stays as it is, with the time of the last success.
count=$("${APIKEYS:-apikeys}" expiring --days "$DAYS" --output json |
  python3 -c 'import json, sys; print(len(json.load(sys.stdin)["keys"]))')
cat >"$FILE.new" <<TEXT
# HELP apikey_expiring_keys Keys of the realm that end within so many days.
# TYPE apikey_expiring_keys gauge
apikey_expiring_keys{realm="$REALM",within_days="$DAYS"} $count
# HELP apikey_expiring_checked_timestamp_seconds When they were counted last.
# TYPE apikey_expiring_checked_timestamp_seconds gauge
apikey_expiring_checked_timestamp_seconds{realm="$REALM"} $(date +%s)
TEXT
mv "$FILE.new" "$FILE"
