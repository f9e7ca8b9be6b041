package drill

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// childAttr has the kernel end the child if the drill is killed, which runs no cleanup; and
// keeps a terminal's Ctrl-C from the child, which the drill ends itself.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// account is whom PostgreSQL runs as, which refuses to be root; nil: ourselves.
type account struct{ uid, gid uint32 }

func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &account{uint32(uid), uint32(gid)}, nil
		}
	}
	return nil, errors.New("drill: --db postgres: PostgreSQL does not run as root, and there is no user postgres or nobody")
}

// mkdir makes a directory that is the account's.
func (a *account) mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil || a == nil {
		return err
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// attr is childAttr for PostgreSQL: it takes its own children with it only when it is told to quit.
func (a *account) attr() *syscall.SysProcAttr {
	attr := childAttr()
	attr.Pdeathsig = syscall.SIGQUIT
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}
