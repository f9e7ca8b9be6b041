package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// apart runs the drill in mount and network namespaces of its own, where it can fill disks and cut cables that are
// nobody else's; all of that is gone with its processes, however they end. A why says that this system gives none.
func (f *failover) apart(ctx context.Context) (report Report, why error, err error) {
	mine, err := mountNamespace()
	if err != nil {
		return Report{}, err, nil
	}
	cmd := exec.CommandContext(ctx, f.Binary, "drill", "failover", "--json", "--apart", mine,
		"--rounds", strconv.Itoa(f.Rounds), "--nodes", strconv.Itoa(f.Nodes), "--net", f.Net, "--against", f.Against,
		"--fault", strings.Join(f.Faults, ","), "--engine", f.Engine, "--seed", strconv.FormatUint(f.Seed, 10))
	cmd.SysProcAttr = ownNamespaces(syscall.CLONE_NEWNS | syscall.CLONE_NEWNET)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	cmd.Stderr = f.Progress
	out, err := output(cmd)
	var figures, theirs FailoverFigures
	report = Report{Figures: &figures, Against: &Report{Figures: &theirs}}
	if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); json.Unmarshal([]byte(lines[len(lines)-1]), &report) == nil && report.Drill != "" {
		report.Figures, report.Against.Figures = figures, theirs
		if report.Against.Drill == "" {
			report.Against = nil
		}
		return report, nil, nil // a verdict, whatever it is
	}
	if ctx.Err() != nil {
		return Report{}, nil, ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return Report{}, nil, fmt.Errorf("drill: the drill in namespaces of its own gave no verdict: %w\n%s", err, exit.Stderr)
	}
	return Report{}, fmt.Errorf("this system gives no namespaces: %w", err), nil
}

// settle makes the namespaces that this process was started in usable. Outer is the mount namespace of those who
// must not be.
func (f *failover) settle(outer string) error {
	mine, err := mountNamespace()
	if err != nil {
		return err
	}
	if outer == mine {
		return errors.New("drill: --apart is for the drill itself: this is no namespace of its own")
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("drill: making mounts private: %w", err)
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	req, err := unix.NewIfreq("lo")
	if err == nil {
		req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	}
	return errors.Join(err, unix.Close(fd))
}
