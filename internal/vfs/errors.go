package vfs

import (
	"errors"
	"io/fs"
	"os"
)

// noSpaceError stands in for an operating system's error that says that the
// disk is full. It unwraps to both ErrNoSpace and that error.
type noSpaceError struct{ cause error }

func (e *noSpaceError) Error() string { return e.cause.Error() }

func (e *noSpaceError) Unwrap() []error { return []error{ErrNoSpace, e.cause} }

// noSpace makes err, if it is an error of the package os because of a full
// disk, unwrap to ErrNoSpace, and leaves its place and operation as they are.
func noSpace(err error) error {
	if err == nil || !diskFull(err) {
		return err
	}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return &fs.PathError{Op: path.Op, Path: path.Path, Err: &noSpaceError{path.Err}}
	case errors.As(err, &link):
		return &os.LinkError{Op: link.Op, Old: link.Old, New: link.New, Err: &noSpaceError{link.Err}}
	}
	return &noSpaceError{err}
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}
