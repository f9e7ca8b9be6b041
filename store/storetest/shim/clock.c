/*
 * clock.c: a preloaded library that gives a server the test's clock.
 *
 * Wall time comes from the file named by STORETEST_CLOCK: eight bytes, microseconds since
 * the epoch in the machine's byte order, written by the test through a shared mapping. The
 * monotonic clocks stay real, so timers and timeouts of the server's event loop go on.
 * Without the variable, and for every other clock, the system answers. It also answers all threads
 * but the first, which alone decides: the allocator's thread waits until some time of day, and would
 * spin on a clock that stands in the past.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static _Atomic int64_t *shared;
static int (*system_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_clock(void) {
	system_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	const char *path = getenv("STORETEST_CLOCK");
	if (path == NULL)
		return;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		_exit(97); /* a server on the wrong clock would make every difference a riddle */
	void *p = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		_exit(98);
	shared = p;
}

static int is_wall(clockid_t id) {
	return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
}

static int is_first_thread(void) {
	static __thread int known; /* 1: it is; 2: it is not */
	if (known == 0)
		known = syscall(SYS_gettid) == getpid() ? 1 : 2;
	return known == 1;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
	if (system_clock == NULL)
		return (int)syscall(SYS_clock_gettime, id, ts);
	if (shared == NULL || !is_wall(id) || !is_first_thread())
		return system_clock(id, ts);
	int64_t us = atomic_load(shared);
	ts->tv_sec = us / 1000000;
	ts->tv_nsec = (us % 1000000) * 1000;
	return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
	(void)tz;
	struct timespec ts;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *out) {
	struct timespec ts;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return (time_t)-1;
	if (out != NULL)
		*out = ts.tv_sec;
	return ts.tv_sec;
}
