// Package interop is tests alone: they show that our record batches and those of
// other implementations of Kafka are the same, and that our assignors decide as
// theirs do. See README.md.
package interop
