package errfs

import (
	"errors"
	"io/fs"
	"slices"
	"sync"

	"github.com/rifflelog/riffle/internal/vfs"
)

// Rule says which operations shall be disturbed, and how. What is left zero in
// the first part matches every operation.
type Rule struct {
	N    int64 // only the N-th operation
	Kind Kind
	Site vfs.Site
	Name string

	Times  int      // how many of the matching operations; 0 means all
	Before func(Op) // called before the operation; it may wait
	Err    error    // the operation's result, as from OnOp; nil lets it go on

	// Decide, if set and Err is nil, says the operation's result in the same
	// way. It is called after Before, for each matching operation.
	Decide func(Op) error
}

// result returns what r wants op to return; nil to let it go on.
func (r *rule) result(op Op) error {
	if r.Err == nil && r.Decide != nil {
		return r.Decide(op)
	}
	return r.Err
}

type rule struct {
	Rule
	used int
}

// Add adds a rule, and returns a function that takes it away. If several rules
// match an operation, the error is that of the first.
func (e *FS) Add(r Rule) (remove func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	added := &rule{Rule: r}
	e.rules = append(e.rules, added)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.rules = slices.DeleteFunc(e.rules, func(r *rule) bool { return r == added })
	}
}

// FailOp fails the n-th operation with err, or with ErrInjected if that is nil.
func (e *FS) FailOp(n int64, err error) { e.Add(Rule{N: n, Err: orInjected(err)}) }

// FailSite fails the next times operations at the site, all of them if times is
// 0, with err, or with ErrInjected if that is nil.
func (e *FS) FailSite(site vfs.Site, times int, err error) (remove func()) {
	return e.Add(Rule{Site: site, Times: times, Err: orInjected(err)})
}

// FailKind fails the next times operations of the kind, all of them if times is
// 0, with err, or with ErrInjected if that is nil.
func (e *FS) FailKind(kind Kind, times int, err error) (remove func()) {
	return e.Add(Rule{Kind: kind, Times: times, Err: orInjected(err)})
}

// Full makes everything that needs space fail until free is called: with
// vfs.ErrNoSpace writing and allocating, also what has its space already, and
// making a file (as Lock does) or a directory; with vfs.ErrFault storing through
// a mapping and Prefault. Files that exist can be opened, emptied and locked;
// names can be changed, files cut, zeroed and flushed.
func (e *FS) Full() (free func()) {
	var all []func()
	for kind, err := range map[Kind]error{
		Write: vfs.ErrNoSpace, Allocate: vfs.ErrNoSpace,
		MapWrite: vfs.ErrFault, Prefault: vfs.ErrFault,
	} {
		all = append(all, e.FailKind(kind, 0, err))
	}
	for _, kind := range []Kind{Create, Mkdir, Lock} {
		all = append(all, e.Add(Rule{Kind: kind, Decide: e.noSpaceToMake}))
	}
	return func() {
		for _, remove := range all {
			remove()
		}
	}
}

// noSpaceToMake fails an operation that would make op.Name.
func (e *FS) noSpaceToMake(op Op) error {
	if _, err := e.inner.Stat(op.Name); errors.Is(err, fs.ErrNotExist) {
		return vfs.ErrNoSpace
	}
	return nil
}

// FullAtSync is a full disk that is noticed late, as by file systems that choose
// places when they flush, or on another machine: everything works, and each Sync
// fails with vfs.ErrNoSpace, and loses what it should have flushed, until free
// is called.
func (e *FS) FullAtSync() (free func()) { return e.FailKind(Sync, 0, vfs.ErrNoSpace) }

// Block holds up the operations that r matches until release is called, which
// may be done twice. Each that arrives is sent to arrived, unless nobody takes
// it and 16 are waiting there.
func (e *FS) Block(r Rule) (arrived <-chan Op, release func()) {
	arrivals, released := make(chan Op, 16), make(chan struct{})
	before := r.Before
	r.Before = func(op Op) {
		if before != nil {
			before(op)
		}
		select {
		case arrivals <- op:
		default:
		}
		<-released
	}
	remove := e.Add(r)
	return arrivals, sync.OnceFunc(func() {
		remove()
		close(released)
	})
}

// matching returns the rules for op, and counts them as used. The caller holds
// mu.
func (e *FS) matching(op Op) []*rule {
	var matching []*rule
	for _, r := range e.rules {
		if r.matches(op) {
			r.used++
			matching = append(matching, r)
		}
	}
	return matching
}

func (r *rule) matches(op Op) bool {
	return (r.N == 0 || r.N == op.N) &&
		(r.Kind == "" || r.Kind == op.Kind) &&
		(r.Site == "" || r.Site == op.Site) &&
		(r.Name == "" || r.Name == op.Name) &&
		(r.Times == 0 || r.used < r.Times)
}

func orInjected(err error) error {
	if err == nil {
		return ErrInjected
	}
	return err
}
