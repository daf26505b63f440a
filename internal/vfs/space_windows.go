package vfs

import (
	"math"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"
)

func spaceOf(name string) (Space, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return Space{}, err
	}
	path, err := windows.UTF16PtrFromString(abs)
	if err != nil {
		return Space{}, err
	}
	attributes, err := windows.GetFileAttributes(path)
	if err != nil {
		return Space{}, err
	}
	if attributes&windows.FILE_ATTRIBUTE_DIRECTORY == 0 {
		abs = filepath.Dir(abs) // what the system call wants
	}
	dir, err := windows.UTF16PtrFromString(abs)
	if err != nil {
		return Space{}, err
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(dir, &free, &total, nil); err != nil {
		return Space{}, err
	}
	space := Space{Free: int64(min(free, math.MaxInt64)), Total: int64(min(total, math.MaxInt64))}
	root, err := windows.UTF16PtrFromString(filepath.VolumeName(abs) + `\`)
	if err != nil {
		return Space{}, err
	}
	space.Network = windows.GetDriveType(root) == windows.DRIVE_REMOTE
	var kind [64]uint16
	err = windows.GetVolumeInformation(root, nil, 0, nil, nil, nil, &kind[0], uint32(len(kind)))
	if err == nil {
		space.Type = strings.ToLower(windows.UTF16ToString(kind[:]))
	}
	return space, nil
}
