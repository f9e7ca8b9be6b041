//go:build !linux

package drill

import (
	"context"
	"errors"
	"os/exec"
	"time"
)

var errNotLinux = errors.New("this needs Linux")

// Watched needs Linux.
func Watched([]string) error { return errNotLinux }

type diskWatch struct{}

func watch(*exec.Cmd, string) (*diskWatch, error)    { return nil, errNotLinux }
func canWatch(string, *nursery, string) error        { return errNotLinux }
func (w *diskWatch) begin() error                    { return errNotLinux }
func (w *diskWatch) end()                            {}
func (w *diskWatch) hold()                           {}
func (w *diskWatch) release() int                    { return 0 }
func (w *diskWatch) slow(time.Duration) int          { return 0 }
func (w *diskWatch) unsynced() (t tornTail, ok bool) { return tornTail{}, false }
func newNamespaces(int) (*namespaces, error)         { return nil, errNotLinux }
func nodeIP(int) string                              { return "" }

type namespaces struct{}

func (ns *namespaces) set(int, int, bool) error          { return errNotLinux }
func (ns *namespaces) enter(_ int, f func() error) error { return f() }
func (ns *namespaces) stuck() int64                      { return 0 }
func (ns *namespaces) sever()                            {}
func (ns *namespaces) close()                            {}

func (f *failover) apart(context.Context) (report Report, why error, err error) {
	return Report{}, errNotLinux, nil
}

func (f *failover) settle(string) error { return errNotLinux }

func smallDisk(string) error { return errNotLinux }

func keepFull(context.Context, string) (bool, error) { return false, errNotLinux }
