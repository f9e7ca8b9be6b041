//go:build !linux

package drill

import (
	"os"
	"syscall"
)

func childAttr() *syscall.SysProcAttr { return nil }

// account is whom PostgreSQL runs as; elsewhere than on Linux that is ourselves.
type account struct{}

func unprivileged() (*account, error) { return nil, nil }

func (a *account) mkdir(path string) error { return os.Mkdir(path, 0o700) }

func (a *account) attr() *syscall.SysProcAttr { return childAttr() }
