package drill

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A disk whose syncs take long, without root and with the servers as they are released: the kernel
// hands a process's fsync and fdatasync to a supervisor first (seccomp user notification, Linux
// 5.5), and the supervisor, the drill, lets them wait before they go on. What it does not do: slow
// down reads and writes that are not synced, which the page cache takes on most disks too.

// slowDisk holds back the syncs of the processes that its nursery starts, while it is told to.
type slowDisk struct {
	nursery  *nursery
	listener int
	each     atomic.Int64                  // ns that a sync takes; 0: as long as it does
	over     atomic.Pointer[chan struct{}] // closed when the time of slowness is over
	held     atomic.Int64                  // syncs that have waited their whole time
	closing  atomic.Bool                   // nobody is left who could ask
	wg       sync.WaitGroup
}

// newSlowDisk makes a nursery whose thread, and all that it starts, has the filter.
func newSlowDisk() (*slowDisk, error) {
	d := &slowDisk{nursery: newNursery()}
	var err error
	d.nursery.starts <- func() { d.listener, err = filterSyncs() }
	d.nursery.starts <- func() {} // the one before has ended
	if err != nil {
		d.nursery.close()
		return nil, fmt.Errorf("drill: the fault %s needs seccomp's user notification, which this system does not give: %w", FaultSlowDisk, err)
	}
	d.wg.Go(d.supervise)
	return d, nil
}

// filterSyncs has the calling thread's syncs, and those of its children, reported to the
// returned descriptor. The thread can never get rid of it.
func filterSyncs() (int, error) {
	const loadNumber, jumpEqual, give = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: loadNumber},
		{Code: jumpEqual, K: unix.SYS_FSYNC, Jt: 1},
		{Code: jumpEqual, K: unix.SYS_FDATASYNC, Jf: 1},
		{Code: give, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: give, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// The kernel's struct seccomp_notif and seccomp_notif_resp.
type (
	notification struct {
		id   uint64
		rest [72]byte
	}
	permission struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

// supervise lets each sync go on, at once or late.
func (d *slowDisk) supervise() {
	ready := []unix.PollFd{{Fd: int32(d.listener), Events: unix.POLLIN}}
	for !d.closing.Load() {
		n, err := unix.Poll(ready, 50) // ms
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if n == 0 || ready[0].Revents&unix.POLLIN == 0 {
			continue
		}
		d.one()
	}
}

func (d *slowDisk) one() {
	var n notification
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return // whoever asked has been killed meanwhile
	}
	each, over := time.Duration(d.each.Load()), d.over.Load()
	if each == 0 {
		d.allow(n.id)
		return
	}
	d.wg.Go(func() {
		select {
		case <-time.After(each):
			d.held.Add(1)
		case <-*over: // the disk is fast again
		}
		d.allow(n.id)
	})
}

func (d *slowDisk) allow(id uint64) {
	p := permission{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	// An error means that whoever asked is gone.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&p)))
}

// slow lets each sync take so long for a while; hit says whether some did.
func (d *slowDisk) slow(ctx context.Context, each, during time.Duration) (hit bool) {
	before, over := d.held.Load(), make(chan struct{})
	d.over.Store(&over)
	d.each.Store(int64(each))
	wait(ctx, during)
	d.each.Store(0)
	close(over)
	return d.held.Load() > before
}

// close ends the supervisor, when all that the nursery started has ended.
func (d *slowDisk) close() {
	d.closing.Store(true)
	d.nursery.close()
	d.wg.Wait()
	_ = unix.Close(d.listener) // nobody is left who could use it
}
