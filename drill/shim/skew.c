/*
 * skew.c: a preloaded library that puts an engine's wall clock wrong.
 *
 * The file named by HOLDFAST_DRILL_SKEW holds eight bytes in the machine's byte order: how many
 * microseconds the clock is ahead, or behind when they are negative. The drill changes them while the
 * engine runs. The monotonic clocks stay right, as they do when a real machine's clock is set. So do the
 * clocks of all threads but the first, which alone decides: the allocator's thread waits until some time of
 * day, and the system ends such a wait by its own clock, so that it would spin as long as this one is behind.
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

static _Atomic int64_t *skew;
static int (*right)(clockid_t, struct timespec *);

__attribute__((constructor)) static void map_skew(void) {
	right = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	const char *path = getenv("HOLDFAST_DRILL_SKEW");
	if (path == NULL)
		return;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		_exit(97); /* an engine whose clock cannot jump would make the fault a lie */
	close(fd);
	skew = page;
}

static int is_first_thread(void) {
	static __thread int known; /* 1: it is; 2: it is not */
	if (known == 0)
		known = syscall(SYS_gettid) == getpid() ? 1 : 2;
	return known == 1;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
	int failed = right == NULL ? (int)syscall(SYS_clock_gettime, id, ts) : right(id, ts);
	if (failed || skew == NULL || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) || !is_first_thread())
		return failed;
	int64_t us = (int64_t)ts->tv_sec * 1000000 + ts->tv_nsec / 1000 + atomic_load(skew);
	ts->tv_sec = us / 1000000;
	ts->tv_nsec = us % 1000000 * 1000;
	return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
	(void)zone;
	struct timespec ts;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *to) {
	struct timespec ts;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return (time_t)-1;
	if (to != NULL)
		*to = ts.tv_sec;
	return ts.tv_sec;
}
