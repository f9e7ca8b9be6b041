package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A disk that can be filled must be nobody else's. So a drill that fills one runs itself once
// more, in a mount namespace of its own (with a user namespace around it, so that this needs no
// root), and puts its data on a file system in memory that ends with it. To be full, the file
// system is made as small as what is on it.

const (
	diskSize = 2 << 30  // a limit, not what it takes
	diskLeft = 64 << 10 // bytes that a full disk has left
)

// apart runs the drill in namespaces of its own and returns its report.
func (p *plan) apart(ctx context.Context) (report Report, err error) {
	mine, err := mountNamespace()
	if err != nil {
		return Report{}, err
	}
	cmd := exec.CommandContext(ctx, p.Binary, "drill", "sale", "--json", "--own-disk", mine,
		"--buyers", strconv.Itoa(p.Buyers), "--stock", strconv.Itoa(p.Stock),
		"--fault", strings.Join(p.Faults, ","), "--seed", strconv.FormatUint(p.Seed, 10))
	cmd.SysProcAttr = ownNamespaces(syscall.CLONE_NEWNS)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	cmd.Stderr = p.Progress
	out, err := output(cmd)
	if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); json.Unmarshal([]byte(lines[len(lines)-1]), &report) == nil && report.Drill != "" {
		return report, nil // a verdict, whatever it is
	}
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return Report{}, fmt.Errorf("drill: the drill on a disk of its own gave no verdict: %w\n%s", err, exit.Stderr)
	}
	return Report{}, fmt.Errorf("drill: the fault %s needs a mount namespace, which this system does not give: %w", FaultFullDisk, err)
}

// ownNamespaces starts a child in new namespaces, in a user namespace unless we are root.
func ownNamespaces(kinds uintptr) *syscall.SysProcAttr {
	attr := childAttr()
	attr.Cloneflags = kinds
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

// output is cmd.Output on an OS thread of its own: when the thread that started a child ends, the
// kernel ends the child.
func output(cmd *exec.Cmd) (out []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: it ends here, after the child
		out, err = cmd.Output()
	}()
	<-done
	return out, err
}

func mountNamespace() (string, error) {
	name, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	return name, nil
}

// ownDisk puts a file system on dir that only this process and its children see. Outer is the
// namespace of those who must not.
func ownDisk(dir, outer string) error {
	mine, err := mountNamespace()
	if err != nil {
		return err
	}
	if outer == mine {
		return errors.New("drill: --own-disk is for the drill itself: this is no mount namespace of its own")
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("drill: making mounts private: %w", err)
	}
	return smallDisk(dir)
}

// smallDisk puts a file system in memory on dir.
func smallDisk(dir string) error {
	if err := syscall.Mount("holdfast-drill", dir, "tmpfs", 0, "size="+strconv.Itoa(diskSize)); err != nil {
		return fmt.Errorf("drill: a file system on %s: %w", dir, err)
	}
	return nil
}

// leaveDisk takes the file system away, and all that is on it.
func leaveDisk(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

// resize sets the most that fits on the file system.
func resize(dir string, size uint64) error {
	err := syscall.Mount("holdfast-drill", dir, "tmpfs", syscall.MS_REMOUNT, "size="+strconv.FormatUint(size, 10))
	if err != nil {
		return fmt.Errorf("drill: resizing the disk: %w", err)
	}
	return nil
}

// fillDisk leaves no room on the disk for a while, whatever its users give back meanwhile; hit says
// whether writes of ours failed all that time, but for moments in which somebody gave back.
func fillDisk(ctx context.Context, dir string) (hit bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, down)
	defer cancel()
	return keepFull(ctx, dir)
}

// keepFull is fillDisk until ctx ends.
func keepFull(ctx context.Context, dir string) (hit bool, err error) {
	defer func() { err = errors.Join(err, resize(dir, diskSize)) }()
	full, looks := 0, 0
	for ; wait(ctx, 20*time.Millisecond); looks++ {
		if err := shrink(dir); err != nil {
			return false, err
		}
		if noRoom(dir) {
			full++
		}
	}
	return full > 0 && full >= looks*9/10, nil
}

// shrink makes the file system as small as what is on it.
func shrink(dir string) (err error) {
	for range 20 { // it may grow between the question and the answer
		var s syscall.Statfs_t
		if err := syscall.Statfs(dir, &s); err != nil {
			return fmt.Errorf("drill: %w", err)
		}
		if err = resize(dir, (s.Blocks-s.Bfree)*uint64(s.Bsize)+diskLeft); err == nil {
			return nil
		}
	}
	return err
}

// noRoom says whether a file of some size cannot be written.
func noRoom(dir string) bool {
	name := filepath.Join(dir, "ballast")
	err := os.WriteFile(name, make([]byte, 4*diskLeft), 0o600)
	return errors.Join(err, os.Remove(name)) != nil && errors.Is(err, syscall.ENOSPC)
}
