package vfs

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kinds are the file systems that we know by name.
var kinds = map[uint32]struct {
	name    string
	network bool
}{
	unix.EXT4_SUPER_MAGIC:      {"ext4", false}, // also ext2 and ext3
	unix.XFS_SUPER_MAGIC:       {"xfs", false},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs", false},
	unix.BCACHEFS_SUPER_MAGIC:  {"bcachefs", false},
	unix.F2FS_SUPER_MAGIC:      {"f2fs", false},
	unix.TMPFS_MAGIC:           {"tmpfs", false},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", false},
	0x2fc12fc1:                 {"zfs", false},
	unix.NFS_SUPER_MAGIC:       {"nfs", true},
	unix.SMB_SUPER_MAGIC:       {"smb", true},
	unix.SMB2_SUPER_MAGIC:      {"smb2", true},
	unix.CIFS_SUPER_MAGIC:      {"cifs", true},
	unix.V9FS_MAGIC:            {"9p", true},
	unix.CEPH_SUPER_MAGIC:      {"ceph", true},
	unix.AFS_SUPER_MAGIC:       {"afs", true},
	unix.CODA_SUPER_MAGIC:      {"coda", true},
	unix.NCP_SUPER_MAGIC:       {"ncp", true},
	unix.OCFS2_SUPER_MAGIC:     {"ocfs2", true},
	0x01161970:                 {"gfs2", true},
	0x0bd00bd0:                 {"lustre", true},
	0x47504653:                 {"gpfs", true},
	// A program in user space answers: sshfs, an object store, the host of a
	// virtual machine. It cannot be told, so it is taken for the worst.
	unix.FUSE_SUPER_MAGIC: {"fuse", true},
}

func spaceOf(name string) (Space, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(name, &st) }); err != nil {
		return Space{}, err
	}
	unit := int64(st.Frsize)
	if unit == 0 {
		unit = int64(st.Bsize)
	}
	kind := kinds[uint32(st.Type)]
	return Space{
		Free:      int64(st.Bavail) * unit,
		Total:     int64(st.Blocks) * unit,
		Type:      kind.name,
		Network:   kind.network,
		MapWrites: mapWrites(kind.name, name),
	}, nil
}

// mapWrites tells whether a store into allocated space needs no new space. A
// file system that copies on write needs some for any store after a flush.
func mapWrites(kind, name string) bool {
	if kind == "tmpfs" {
		return true
	}
	if kind != "ext4" && kind != "xfs" {
		return false
	}
	fd, err := openRetry(name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if kind == "xfs" {
		return !xfsReflinks(fd)
	}
	return ext4Extents(fd)
}

// ext4Extents tells ext4 from ext2 and ext3, which have the same magic number
// but cannot allocate ahead: there, files and directories have no extents.
func ext4Extents(fd int) bool {
	const extents = 0x80000 // EXT4_EXTENTS_FL
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	return err == nil && flags&extents != 0
}

// xfsReflinks tells whether the XFS that fd is on may share blocks between
// files; true if it does not say.
//
// The answer is XFS's struct xfs_fsop_geom_v4, of 112 bytes: eight 32-bit and
// four 64-bit numbers, a uuid of 16 bytes, sunit, swidth, version, then flags.
func xfsReflinks(fd int) bool {
	const (
		request  = 0x8070587c // _IOR('X', 124, struct xfs_fsop_geom_v4), asm-generic's encoding
		reflinks = 1 << 20    // XFS_FSOP_GEOM_FLAGS_REFLINK
	)
	var geometry struct {
		before [92]byte
		flags  uint32
		after  [16]byte
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&geometry)))
	return errno != 0 || geometry.flags&reflinks != 0
}

func openRetry(name string) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	return fd, err
}
