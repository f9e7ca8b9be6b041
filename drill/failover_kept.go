package drill

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// confess has every node end with the stacks of its goroutines, in its log.
func (l *nodeFleet) confess() {
	for _, n := range l.nodes {
		n.resume()
		if n.child == nil || n.child.cmd.Process.Signal(syscall.SIGQUIT) != nil {
			continue
		}
		select {
		case <-n.child.exited:
		case <-time.After(2 * time.Second):
		}
	}
}

// keep copies what is on the nodes' disks to where it can be looked at.
func (l *nodeFleet) keep() (err error) {
	if l.f.noDisk != "" {
		return nil // it lies there
	}
	for _, n := range l.nodes {
		err = errors.Join(err, filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(n.dir, path)
			to := filepath.Join(l.f.place.dir, "kept-"+n.name, name)
			switch {
			case err != nil:
				return err
			case d.IsDir():
				return os.MkdirAll(to, 0o700)
			case !d.Type().IsRegular():
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(to, data, 0o600)
		}))
	}
	return err
}
