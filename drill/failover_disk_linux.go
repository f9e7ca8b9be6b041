package drill

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel asks the drill before a node's fsync and fdatasync (a seccomp filter with a listener, which needs no
// root). So a disk can be slow, or stand still; and of a node that is killed while its log's sync stands still,
// the drill knows which bytes no sync has covered: those, and only those, may a power loss take.

// Watched installs the filter, sends its listener through file descriptor 3, and becomes the program argv.
func Watched(argv []string) error {
	runtime.LockOSThread() // the thread that has the filter is the one that goes on
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("drill: no new privileges: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("drill: a seccomp filter: %w", errno)
	}
	const parent = 3
	if err := unix.Sendmsg(parent, []byte{1}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	if err := errors.Join(unix.Close(int(fd)), unix.Close(parent)); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}

// diskWatch answers the kernel for one node's life.
type diskWatch struct {
	socket *os.File // from the node, once
	other  *os.File // the node's end
	wg     sync.WaitGroup
	stop   chan struct{}

	mu     sync.Mutex
	delay  time.Duration
	held   chan struct{} // not nil: syncs of logs stand still until it is closed
	synced map[string]int64
	stood  map[string]int64 // held syncs: how long the file was
	slowed int
}

// watch makes a command whose syncs are watched.
func watch(cmd *exec.Cmd, binary string) (*diskWatch, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	w := &diskWatch{socket: os.NewFile(uintptr(pair[0]), "watch"), other: os.NewFile(uintptr(pair[1]), "watched"),
		stop: make(chan struct{}), synced: map[string]int64{}, stood: map[string]int64{}}
	cmd.Args = append([]string{binary, "drill", "watched", "--"}, cmd.Args...)
	cmd.Path, cmd.ExtraFiles = binary, []*os.File{w.other}
	return w, nil
}

// begin takes the listener of the command, which has been started, and answers from then on.
func (w *diskWatch) begin() error {
	if err := w.other.Close(); err != nil {
		return err
	}
	conn, err := net.FileConn(w.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(readyWithin)); err != nil {
		return err
	}
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("it sent no listener: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	w.wg.Add(1)
	go w.answer(fds[0])
	return nil
}

// end lets the listener go; the node has ended.
func (w *diskWatch) end() {
	close(w.stop)
	w.release()
	w.wg.Wait()
	_ = w.socket.Close() // and what it was for is over
}

// What linux/seccomp.h calls seccomp_notif and seccomp_notif_resp.
type (
	syncAsked struct {
		ID         uint64
		Pid, Flags uint32
		Call       struct {
			Number, Arch int32
			At           uint64
			Args         [6]uint64
		}
	}
	syncAnswer struct {
		ID    uint64
		Value int64
		Error int32
		Flags uint32
	}
)

const (
	notifRecv = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifSend = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

func (w *diskWatch) answer(fd int) {
	defer w.wg.Done()
	var answers sync.WaitGroup
	defer func() {
		answers.Wait()
		_ = unix.Close(fd)
	}()
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 100)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR), poll[0].Revents&unix.POLLHUP != 0:
			return // nobody is left who could ask
		case n < 1:
			continue
		}
		var asked syncAsked
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifRecv, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue // it was killed meanwhile
		}
		name, at := openFile(int(asked.Pid), int(asked.Call.Args[0]))
		answers.Add(1)
		go func() {
			defer answers.Done()
			w.wait(name, at)
			answer := syncAnswer{ID: asked.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSend, uintptr(unsafe.Pointer(&answer))) // it may have been killed
		}()
	}
}

// openFile is the file that a thread has open, and how far it has written it.
func openFile(pid, fd int) (name string, at int64) {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if err != nil {
		return "", 0
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return name, 0
	}
	first, _, _ := strings.Cut(string(info), "\n")
	at, err = strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(first, "pos:")), 10, 64)
	if err != nil {
		return name, 0
	}
	return name, at
}

// wait holds one sync up for as long as the disk is to be slow.
func (w *diskWatch) wait(name string, at int64) {
	log := filepath.Ext(name) == ".log"
	w.mu.Lock()
	delay, held := w.delay, w.held
	if held != nil && log {
		w.stood[name] = at
		w.slowed++
	} else {
		held = nil
		if delay > 0 {
			w.slowed++
		}
		if log {
			w.synced[name] = at
		}
	}
	w.mu.Unlock()
	switch {
	case held != nil:
		<-held
	case delay > 0:
		select {
		case <-time.After(delay):
		case <-w.stop:
		}
	}
}

// slow makes every sync take that much longer. It returns how many were slowed down so far.
func (w *diskWatch) slow(delay time.Duration) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = delay
	return w.slowed
}

// hold has syncs of logs stand still.
func (w *diskWatch) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		w.held = make(chan struct{})
	}
}

// release lets them go on. It returns how many were slowed down so far.
func (w *diskWatch) release() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held != nil {
		close(w.held)
		w.held = nil
	}
	clear(w.stood)
	return w.slowed
}

// unsynced is a log and the bytes of it that no sync has covered, while its syncs stand still.
func (w *diskWatch) unsynced() (t tornTail, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, to := range w.stood {
		if from := w.synced[name]; to > from {
			return tornTail{name, from, to}, true
		}
	}
	return tornTail{}, false
}

// canWatch says why syncs cannot be watched here.
func canWatch(binary string, n *nursery, log string) error {
	cmd := exec.Command("true")
	w, err := watch(cmd, binary)
	if err != nil {
		return err
	}
	c, err := n.run(cmd, log)
	if err != nil {
		return errors.Join(err, w.other.Close(), w.socket.Close())
	}
	err = w.begin()
	<-c.exited
	w.end()
	if err != nil || c.err != nil {
		return fmt.Errorf("the kernel gives no seccomp listener: %w: %s", errors.Join(err, c.err), tail(log))
	}
	return nil
}
