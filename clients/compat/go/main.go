// Go-redis as an application would use it, configured for Sentinel. It writes until its input ends,
// and prints what was acknowledged.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

func main() {
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:    os.Args[1],
		SentinelAddrs: strings.Split(os.Args[2], ","),
		Password:      os.Args[3],
	})
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
	}()
	ctx := context.Background()
	for i := 0; !ended.Load(); i++ {
		err := client.SAdd(ctx, "compat:go", i).Err()
		var count int64
		if err == nil {
			count, err = client.Incr(ctx, "compat:go:n").Result()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, i, err)
			time.Sleep(20 * time.Millisecond)
			continue
		}
		fmt.Println("ack", i, count)
	}
	_ = client.Close()
}
