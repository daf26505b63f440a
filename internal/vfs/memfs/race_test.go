//go:build race

package memfs_test

import (
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

const raceVariable = "MEMFS_TEST_RACE"

// The race detector sees a byte that is stored through a mapping and read
// without synchronization, through a mapping or the file, and does not see
// races between words, between different bytes of one page, or with WriteAt. A
// child process runs each case, because a race found fails the test.
func TestRaceDetectorSeesMappedBytes(t *testing.T) {
	for name, c := range map[string]struct {
		race  bool
		write func(f vfs.File, p vfs.Mapping) error
		read  func(f vfs.File, p vfs.Mapping) error
	}{
		"mapping and file":    {true, mapWrite(100), fileRead(100)},
		"mapping and mapping": {true, mapWrite(100), mapRead(100)},
		"two stores":          {true, mapWrite(100), mapWrite(104)},
		"other bytes":         {false, mapWrite(100), fileRead(200)},
		"other stores":        {false, mapWrite(100), mapWrite(200)},
		"written":             {false, fileWrite(100), mapRead(100)},
		"words": {
			false,
			func(_ vfs.File, p vfs.Mapping) error { return p.Store(8, 1) },
			func(_ vfs.File, p vfs.Mapping) error { _, err := p.Load(8); return err },
		},
		"word and bytes": {
			true,
			func(_ vfs.File, p vfs.Mapping) error { return p.Store(96, 1) }, mapRead(100),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(raceVariable) != "" {
				raceTwo(t, c.write, c.read)
				return
			}
			child := exec.Command(os.Args[0], "-test.run=^"+"TestRaceDetectorSeesMappedBytes$/^"+name+"$")
			child.Env = append(os.Environ(), raceVariable+"=1", "GORACE=halt_on_error=0")
			out, err := child.CombinedOutput()
			if c.race {
				require.Error(t, err, "no race was seen")
				require.Contains(t, string(out), "DATA RACE")
			} else {
				require.NoError(t, err, "%s", out)
			}
		})
	}
}

func raceTwo(t *testing.T, write, read func(f vfs.File, p vfs.Mapping) error) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	p, err := f.Map(0, page, true)
	require.NoError(t, err)
	var both sync.WaitGroup
	for _, do := range []func(vfs.File, vfs.Mapping) error{write, read} {
		both.Go(func() {
			for range 1000 {
				if err := do(f, p); err != nil {
					panic(err)
				}
			}
		})
	}
	both.Wait()
}

func mapWrite(off int64) func(vfs.File, vfs.Mapping) error {
	return func(_ vfs.File, p vfs.Mapping) error { _, err := p.WriteAt(make([]byte, 8), off); return err }
}

func mapRead(off int64) func(vfs.File, vfs.Mapping) error {
	return func(_ vfs.File, p vfs.Mapping) error { _, err := p.ReadAt(make([]byte, 8), off); return err }
}

func fileRead(off int64) func(vfs.File, vfs.Mapping) error {
	return func(f vfs.File, _ vfs.Mapping) error { _, err := f.ReadAt(make([]byte, 8), off); return err }
}

func fileWrite(off int64) func(vfs.File, vfs.Mapping) error {
	return func(f vfs.File, _ vfs.Mapping) error { _, err := f.WriteAt(make([]byte, 8), off); return err }
}
