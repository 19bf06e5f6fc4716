// Crowds of clients: `peer crowd LOAD URL ...` prints {metric: value} and ends by itself.
//
//	ask URL CLIENTS SECONDS        connect at once and ask without a pause
//	beside KIND URL                every 10 ms one thing of a KIND: how long each took since it was due
//	hold URL SERVICE COUNT KIND... COUNT of each KIND (websocket, stream, poll) are opened, and closed at once
//	reconnect URL COUNT            COUNT WebSockets that connect anew as soon as they end
//	tunnels URL BYTES SECONDS      100 WebSockets with one message under way each
//	stall URL SERVICE COUNT        COUNT downloads that are not read
//	handshake URL COUNT            COUNT TLS handshakes at once
//
// beside, hold, reconnect and stall say "ready" when what they are about stands, and go on, or end, at a line from
// standard input or its end. What fails is counted, not repeated, but for `reconnect`. SERVICE is the URL at which the
// service itself says what has come to it.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	limit   = 60 * time.Second // of whatever is waited for
	pace    = 10 * time.Millisecond
	opening = 200 // connections that are opened at a time where the opening is not what is measured
)

type figures map[string]float64

func crowd(words []string) {
	number := func(index int) int {
		value, err := strconv.Atoi(words[index])
		if err != nil {
			log.Fatal(err)
		}
		return value
	}
	seconds := func(index int) time.Duration {
		value, err := strconv.ParseFloat(words[index], 64)
		if err != nil {
			log.Fatal(err)
		}
		return time.Duration(value * float64(time.Second))
	}
	loads := map[string]func() figures{
		"ask":       func() figures { return ask(words[1], number(2), seconds(3)) },
		"beside":    func() figures { return beside(words[1], words[2]) },
		"hold":      func() figures { return hold(words[1], words[2], number(3), words[4:]) },
		"reconnect": func() figures { return reconnect(words[1], number(2)) },
		"tunnels":   func() figures { return tunnels(words[1], number(2), seconds(3)) },
		"stall":     func() figures { return stall(words[1], words[2], number(3)) },
		"handshake": func() figures { return handshake(words[1], number(2)) },
	}
	json.NewEncoder(os.Stdout).Encode(loads[words[0]]())
}

// A client's connection.

type client struct {
	conn   net.Conn
	reader *bufio.Reader
}

func dial(url string) (*client, error) {
	scheme, address, _ := strings.Cut(url, "://")
	dialer := &net.Dialer{Timeout: limit}
	var conn net.Conn
	var err error
	if scheme == "https" {
		conn, err = tls.DialWithDialer(dialer, "tcp", address, &tls.Config{InsecureSkipVerify: true})
	} else {
		conn, err = dialer.Dial("tcp", address)
	}
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(limit))
	return &client{conn, bufio.NewReader(conn)}, nil
}

func (c *client) send(path string, fields string) error {
	_, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: bench\r\n"+fields+"\r\n")
	return err
}

// The status, and the length of the body where it is said.
func (c *client) readHead() (status int, length int, err error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return
	}
	name := []byte("content-length:")
	for {
		if line, err = c.reader.ReadSlice('\n'); err != nil || len(line) <= 2 {
			return
		}
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], name) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			if err != nil {
				return
			}
		}
	}
}

func (c *client) get(path string) (status int, body []byte, err error) {
	if err = c.send(path, ""); err != nil {
		return
	}
	status, length, err := c.readHead()
	if err != nil {
		return
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.reader, body)
	return
}

// A request on a connection of its own.
func getOnce(url string, path string) (status int, body []byte, err error) {
	c, err := dial(url)
	if err != nil {
		return
	}
	defer c.conn.Close()
	return c.get(path)
}

type refused int

func (status refused) Error() string { return fmt.Sprintf("status %d", int(status)) }

func openTunnel(url string) (*tunnel, error) {
	c, err := dial(url)
	if err != nil {
		return nil, err
	}
	err = c.send("/echo", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: "+tunnelKey+"\r\n")
	status := 0
	if err == nil {
		status, _, err = c.readHead()
	}
	if err == nil && status != 101 {
		err = refused(status)
	}
	if err != nil {
		c.conn.Close()
		return nil, err
	}
	return &tunnel{conn: c.conn, reader: c.reader}, nil
}

// Every number below count at once, `width` at a time.
func together(count int, width int, act func(number int)) {
	var group sync.WaitGroup
	var next int64 = -1
	for worker := 0; worker < width; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for number := int(atomic.AddInt64(&next, 1)); number < count; number = int(atomic.AddInt64(&next, 1)) {
				act(number)
			}
		}()
	}
	group.Wait()
}

var input = bufio.NewReader(os.Stdin)

func awaitLine() { input.ReadString('\n') }

func sayReady() { fmt.Println("ready") }

// What the service says of itself: how many wait there, and the bytes of downloads it has got rid of.
func whatIsOpen(service string) (waiting int, written int) {
	_, body, err := getOnce(service, "/open")
	if err == nil {
		_, err = fmt.Sscan(string(body), &waiting, &written)
	}
	if err != nil {
		log.Fatal("the service cannot be asked what is open: ", err)
	}
	return
}

func awaitWaiting(service string, count int) {
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		waiting, _ := whatIsOpen(service)
		if waiting == count {
			return
		}
		if time.Since(begin) > limit {
			log.Fatalf("%d wait at the service, not %d", waiting, count)
		}
	}
}

// The loads.

func ask(url string, count int, span time.Duration) figures {
	begin := time.Now()
	firsts := make([]time.Duration, count)
	var answers, failed int64
	together(count, count, func(number int) {
		c, err := dial(url)
		if err != nil {
			atomic.AddInt64(&failed, 1)
			return
		}
		defer c.conn.Close()
		c.conn.SetDeadline(begin.Add(span))
		for {
			status, _, err := c.get("/")
			if err != nil || status != 200 {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					atomic.AddInt64(&failed, 1)
				}
				return
			}
			if firsts[number] == 0 {
				firsts[number] = time.Since(begin)
			}
			atomic.AddInt64(&answers, 1)
		}
	})
	answered, last := 0, time.Duration(0)
	for _, first := range firsts {
		if first > 0 {
			answered++
		} else {
			first = span
		}
		if first > last {
			last = first
		}
	}
	return figures{"answered": float64(answered), "last first answer s": last.Seconds(), "failed": float64(failed),
		"requests/s": float64(answers) / span.Seconds()}
}

// New connections may be under way at the same time; a kept one and a tunnel are asked one after the other.
func beside(kind string, url string) figures {
	var act func() error
	width := 1
	switch kind {
	case "new":
		width = 64
		act = func() error {
			status, _, err := getOnce(url, "/")
			return judged(status, err)
		}
	case "kept":
		c := must(dial(url))
		act = func() error {
			status, _, err := c.get("/")
			return judged(status, err)
		}
	case "tunnel":
		t := must(openTunnel(url))
		act = func() error { return exchange(t, []byte("quiet")) }
	}
	if err := act(); err != nil {
		log.Fatal(err)
	}
	sayReady()
	over := make(chan bool)
	go func() {
		awaitLine()
		close(over)
	}()
	return timed(act, width, over)
}

func judged(status int, err error) error {
	if err == nil && status != 200 {
		err = refused(status)
	}
	return err
}

func must[T any](made T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return made
}

func exchange(t *tunnel, message []byte) error {
	if err := t.send(text, message, true); err != nil {
		return err
	}
	_, _, err := t.receive()
	return err
}

func timed(act func() error, width int, over chan bool) figures {
	due := make(chan time.Time)
	go func() {
		defer close(due)
		for next := time.Now(); ; next = next.Add(pace) {
			select {
			case <-over:
				return
			case <-time.After(time.Until(next)):
			}
			select {
			case <-over:
				return
			case due <- next:
			}
		}
	}()
	var lock sync.Mutex
	var spans []float64
	var count5xx float64
	together(width, width, func(int) {
		for begin := range due {
			err := act()
			span := time.Since(begin)
			lock.Lock()
			if _, is := err.(refused); is {
				count5xx++
			} else if err != nil {
				span = limit // it was never answered
			}
			spans = append(spans, span.Seconds())
			lock.Unlock()
		}
	})
	sort.Float64s(spans)
	return figures{"p99 ms": spans[len(spans)*99/100] * 1000, "worst s": spans[len(spans)-1],
		"median ms": spans[len(spans)/2] * 1000, "refused": count5xx, "count": float64(len(spans))}
}

func hold(url string, service string, count int, kinds []string) figures {
	openers := map[string]func() (net.Conn, error){"websocket": openWebSocket(url), "stream": openStream(url),
		"poll": openPoll(url)}
	conns := make([]net.Conn, count*len(kinds))
	together(len(conns), opening, func(number int) {
		conns[number] = must(openers[kinds[number/count]]())
	})
	awaitWaiting(service, len(conns))
	sayReady()
	awaitLine()
	begin := time.Now()
	for _, conn := range conns {
		conn.Close()
	}
	closed := time.Since(begin)
	awaitWaiting(service, 0)
	return figures{"closed s": closed.Seconds(), "gone s": time.Since(begin).Seconds()}
}

func openWebSocket(url string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		t, err := openTunnel(url)
		if err != nil {
			return nil, err
		}
		return t.conn, nil
	}
}

func openStream(url string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		c, err := dial(url)
		if err == nil {
			err = c.send("/stream", "")
		}
		status := 0
		if err == nil {
			status, _, err = c.readHead()
		}
		for line := []byte{}; err == nil && !bytes.HasPrefix(line, []byte("data:")); {
			line, err = c.reader.ReadSlice('\n')
		}
		return c.conn, judged(status, err)
	}
}

func openPoll(url string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		c, err := dial(url)
		if err != nil {
			return nil, err
		}
		return c.conn, c.send("/poll", "")
	}
}

func reconnect(url string, count int) figures {
	all := make([]*tunnel, count)
	together(count, opening, func(number int) { all[number] = must(openTunnel(url)) })
	sayReady()
	awaitLine()
	begin := time.Now()
	var told, back, count5xx int64
	together(count, count, func(number int) {
		if isTold(all[number]) {
			atomic.AddInt64(&told, 1)
		}
		all[number].conn.Close()
		for time.Since(begin) < limit {
			anew, err := openTunnel(url)
			if err == nil {
				all[number] = anew
				atomic.AddInt64(&back, 1)
				return
			}
			if _, is := err.(refused); is {
				atomic.AddInt64(&count5xx, 1)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return figures{"told 1012": float64(told), "back": float64(back), "all back s": time.Since(begin).Seconds(),
		"refused": float64(count5xx)}
}

// Whether the tunnel ends with 1012, service restart.
func isTold(t *tunnel) bool {
	for {
		opcode, payload, err := t.receive()
		if err != nil {
			return false
		}
		if opcode == closing {
			t.send(closing, payload, true)
			return len(payload) >= 2 && int(payload[0])<<8|int(payload[1]) == 1012
		}
	}
}

func tunnels(url string, size int, span time.Duration) figures {
	const count = 100
	all := make([]*tunnel, count)
	together(count, count, func(number int) { all[number] = must(openTunnel(url)) })
	message := bytes.Repeat([]byte("x"), size)
	var messages int64
	end := time.Now().Add(span)
	together(count, count, func(number int) {
		for time.Now().Before(end) {
			if err := exchange(all[number], message); err != nil {
				log.Fatal(err)
			}
			atomic.AddInt64(&messages, 1)
		}
	})
	return figures{"messages/s": float64(messages) / span.Seconds()}
}

func stall(url string, service string, count int) figures {
	all := make([]*client, count)
	together(count, count, func(number int) {
		c := must(dial(url))
		all[number] = c
		err := c.send("/download", "")
		status := 0
		if err == nil {
			status, _, err = c.readHead()
		}
		if err = judged(status, err); err != nil {
			log.Fatal(err)
		}
	})
	last := -1
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(500 * time.Millisecond) {
		_, written := whatIsOpen(service)
		if written == last {
			break
		}
		last = written
	}
	sayReady()
	awaitLine()
	runtime.KeepAlive(all)
	return figures{"MiB under way": float64(last) / (1 << 20)}
}

func handshake(url string, count int) figures {
	begin := time.Now()
	all := make([]*client, count)
	together(count, count, func(number int) { all[number] = must(dial(url)) })
	return figures{"all shaken s": time.Since(begin).Seconds()}
}
