package drill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/valkey-io/valkey-go"
)

// readPermits reads a sale's permits and their deadlines from the store, by the drill's own
// reading of what lies there.
func readPermits(ctx context.Context, raw string, e *evidence) (err error) {
	key := permitsKey(e.SaleID)
	e.StoreNow = time.Now().UnixMicro()
	switch {
	case strings.HasPrefix(raw, "mem:"):
		return nil
	case isRemote(raw):
		e.Permits, err = remotePermits(ctx, raw, key)
	default:
		e.Permits, err = filePermits(localPath(raw, "file:"), key)
	}
	e.StoreRead = err == nil
	return err
}

func permitsKey(sale string) string { return "sale:{" + sale + "}:permits" }

// filePermits reads a sorted set from the files of a store that nobody has open. A member lies
// under 03, the length of the key in 4 bytes, the key, the member; its value is the score with
// the sign bit turned over, so that scores sort as bytes.
func filePermits(dir, key string) (permits map[string]int64, err error) {
	db, err := pebble.Open(dir, &pebble.Options{ReadOnly: true, ErrorIfNotExists: true, Logger: silent{}})
	if err != nil {
		return nil, fmt.Errorf("drill: store: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	from := append(binary.BigEndian.AppendUint32([]byte{0x03}, uint32(len(key))), key...)
	to := append([]byte(nil), from...)
	to[len(to)-1]++ // a key ends with a letter
	rows, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return nil, fmt.Errorf("drill: store: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	permits = map[string]int64{}
	for rows.First(); rows.Valid(); rows.Next() {
		if len(rows.Value()) != 8 {
			return nil, fmt.Errorf("drill: store: a deadline of %d bytes", len(rows.Value()))
		}
		permits[string(rows.Key()[len(from):])] = int64(binary.BigEndian.Uint64(rows.Value()) ^ 1<<63)
	}
	return permits, rows.Error()
}

// silent keeps Pebble from writing to the terminal.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("drill: store: "+format, args...))
}

// openRemote connects to the engine of a store URL. The prefix is for the caller.
func openRemote(raw string) (client valkey.Client, prefix string, err error) {
	if raw, err = oneOf(raw); err != nil {
		return nil, "", err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, "", errors.New("drill: the store's URL cannot be parsed")
	}
	q := u.Query()
	prefix = q.Get("prefix")
	q.Del("prefix")
	q.Del("class")
	if u.Scheme == "unix" && u.Opaque != "" {
		u.Path, u.Opaque = u.Opaque, ""
	}
	u.RawQuery = q.Encode()
	opts, err := valkey.ParseURL(u.String())
	if err != nil {
		return nil, "", errors.New("drill: the store's URL makes no sense") // it can hold a password
	}
	opts.ForceSingleClient, opts.DisableCache = true, true
	opts.ClientSetInfo = valkey.DisableClientSetInfo
	if client, err = valkey.NewClient(opts); err != nil {
		return nil, "", fmt.Errorf("drill: store: %w", err)
	}
	return client, prefix, nil
}

func remotePermits(ctx context.Context, raw, key string) (map[string]int64, error) {
	c, prefix, err := openRemote(raw)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	members, err := c.Do(ctx, c.B().Zrange().Key(prefix+key).Min("0").Max("-1").Withscores().Build()).AsZScores()
	if err != nil {
		return nil, fmt.Errorf("drill: store: %w", err)
	}
	permits := map[string]int64{}
	for _, m := range members {
		permits[m.Member] = int64(m.Score) // exact up to 2^53
	}
	return permits, nil
}

// dropKeys removes every key under the prefix of a store URL.
func dropKeys(ctx context.Context, raw string) error {
	c, prefix, err := openRemote(raw)
	if err != nil {
		return err
	}
	defer c.Close()
	if prefix == "" {
		return errors.New("drill: without a prefix nothing is removed")
	}
	pattern := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(prefix) + "*"
	for cursor := uint64(0); ; {
		page, err := c.Do(ctx, c.B().Scan().Cursor(cursor).Match(pattern).Count(1000).Build()).AsScanEntry()
		if err != nil {
			return fmt.Errorf("drill: store: %w", err)
		}
		if len(page.Elements) > 0 {
			if err := c.Do(ctx, c.B().Del().Key(page.Elements...).Build()).Error(); err != nil {
				return fmt.Errorf("drill: store: %w", err)
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}
