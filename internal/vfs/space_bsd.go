//go:build darwin || freebsd

package vfs

import "golang.org/x/sys/unix"

func spaceOf(name string) (Space, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(name, &st) }); err != nil {
		return Space{}, err
	}
	unit := int64(st.Bsize)
	return Space{
		Free:    max(0, int64(st.Bavail)) * unit,
		Total:   int64(st.Blocks) * unit,
		Type:    unix.ByteSliceToString(st.Fstypename[:]),
		Network: st.Flags&unix.MNT_LOCAL == 0,
	}, nil
}
