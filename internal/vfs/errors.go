package vfs

import (
	"errors"
	"io/fs"
	"os"
)

// shortageError stands in for an operating system's error that says what it has
// too little of. It unwraps to both our name for that and that error.
type shortageError struct{ name, cause error }

func (e *shortageError) Error() string { return e.cause.Error() }

func (e *shortageError) Unwrap() []error { return []error{e.name, e.cause} }

// shortage makes err, if it is an error of the package os because of a full disk
// or too many open files, unwrap to ErrNoSpace or ErrNoFiles, and leaves its
// place and operation as they are.
func shortage(err error) error {
	var name error
	switch {
	case err == nil:
		return nil
	case diskFull(err):
		name = ErrNoSpace
	case tooManyFiles(err):
		name = ErrNoFiles
	default:
		return err
	}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return &fs.PathError{Op: path.Op, Path: path.Path, Err: &shortageError{name, path.Err}}
	case errors.As(err, &link):
		return &os.LinkError{Op: link.Op, Old: link.Old, New: link.New, Err: &shortageError{name, link.Err}}
	}
	return &shortageError{name, err}
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}
