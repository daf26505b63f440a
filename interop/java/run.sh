#!/bin/sh
# Writes testdata/java anew with Kafka's own classes, has them read batches of
# ours, and compares what they print with what we print. Needs Java 17 and Maven.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/ours" "$tmp/kafka"

mvn -q -B compile dependency:build-classpath -Dmdep.outputFile=target/classpath
interop() { java -cp "target/classes:$(cat target/classpath)" Interop "$@"; }

golden=../testdata/java
mkdir -p $golden
rm -f $golden/*.batch $golden/*.txt
interop write $golden
interop read $golden $golden

(cd .. && go test -count=1 -run '^TestBatchesForJava$' . -for-java "$tmp/ours")
interop read "$tmp/ours" "$tmp/kafka"
for want in "$tmp"/ours/*.want; do
	diff "$want" "$tmp/kafka/$(basename "$want" .want).txt"
done
echo "Kafka reads our batches as we do"

cd .. && go test -count=1 .
