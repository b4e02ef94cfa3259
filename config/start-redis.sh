#!/bin/sh
# Starts the broker of docker-compose.yml; with the argument `health`, is its health check.
#
# It needs sh, coreutils, setpriv and Redis. The passwords come in the environment, may have any
# character, and are in no command line, no file and not in Redis' environment: Redis gets hashes.
set -eu
umask 077
etc=/etc/hive
run=/run/hive
user=10001

if [ "${1:-}" = health ]; then
    if [ "${REDIS_TLS:-}" = true ]; then
        set -- --tls --cacert $etc/tls/ca.crt --cert $etc/tls/client.crt --key $etc/tls/client.key
    else
        set --
    fi
    # It asks without a password, so a server that is well may answer that it wants one.
    case $(redis-cli "$@" ping 2>&1) in
        PONG* | NOAUTH*) exit 0 ;;
        *) exit 1 ;;
    esac
fi

refuse() {
    printf '%s\n' "$1" >&2
    exit 2
}

for name in REDIS_PASSWORD REDIS_ADMIN_PASSWORD HIVE_FLOWER_PASSWORD; do
    eval "value=\${$name:-}"
    if [ ${#value} -lt 32 ]; then
        refuse "$name has ${#value} characters and needs at least 32: put one into .env that 'openssl rand -hex 32' makes."
    fi
done

hash_of() {
    printf %s "$1" | sha256sum | cut -c 1-64
}
admin=$(hash_of "$REDIS_ADMIN_PASSWORD")
hive=$(hash_of "$REDIS_PASSWORD")
unset value REDIS_PASSWORD REDIS_ADMIN_PASSWORD HIVE_FLOWER_PASSWORD

while IFS= read -r line || [ -n "$line" ]; do
    case $line in
        *'>CHANGE-THIS-1'*) line="${line%%>CHANGE-THIS-1*}#$admin${line#*>CHANGE-THIS-1}" ;;
        *'>CHANGE-THIS-2'*) line="${line%%>CHANGE-THIS-2*}#$hive${line#*>CHANGE-THIS-2}" ;;
    esac
    printf '%s\n' "$line"
done <$etc/users.acl >$run/users.acl
cat $etc/redis.conf >$run/redis.conf

if [ "${REDIS_TLS:-}" = true ]; then
    for file in ca.crt redis.crt redis.key; do
        [ -r $etc/tls/$file ] || refuse "tls/$file is missing: docker-compose.tls.yml says how to make it."
        cat $etc/tls/$file >$run/$file
    done
    set -- --port 0 --tls-port 6379 --tls-ca-cert-file $run/ca.crt \
        --tls-cert-file $run/redis.crt --tls-key-file $run/redis.key "$@"
fi

chown -R $user:$user $run /data
exec setpriv --reuid=$user --regid=$user --clear-groups --inh-caps=-all \
    redis-server $run/redis.conf "$@"
