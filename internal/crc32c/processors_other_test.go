//go:build !amd64 || portable

package crc32c

import "testing"

// processors are those that this one can be.
func processors(*testing.T) map[string]func() {
	return map[string]func(){"any": func() {}}
}
