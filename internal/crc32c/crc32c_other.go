//go:build !amd64 || portable

package crc32c

import "hash/crc32"

func update(crc uint32, p []byte) uint32 { return crc32.Update(crc, table, p) }

func timesPower(crc uint32, k int) uint32 { return multiply(crc, powers[k]) }
