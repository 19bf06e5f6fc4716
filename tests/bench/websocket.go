// The part of RFC 6455 that an echo needs: whole messages of less than 64 KiB, and the Close frame.
package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
)

const (
	text      = 1
	closing   = 8
	tunnelKey = "dGhlIHNhbXBsZSBub25jZQ=="
)

type tunnel struct {
	conn    net.Conn
	reader  *bufio.Reader
	in, out []byte
}

// What comes next; the payload is good until the next call.
func (t *tunnel) receive() (opcode byte, payload []byte, err error) {
	var head [4]byte
	if _, err = io.ReadFull(t.reader, head[:2]); err != nil {
		return
	}
	length := int(head[1] & 127)
	if length == 127 {
		return 0, nil, errors.New("a message of 64 KiB or more")
	}
	if length == 126 {
		if _, err = io.ReadFull(t.reader, head[2:]); err != nil {
			return
		}
		length = int(binary.BigEndian.Uint16(head[2:]))
	}
	var mask [4]byte
	if head[1]&128 != 0 {
		if _, err = io.ReadFull(t.reader, mask[:]); err != nil {
			return
		}
	}
	if cap(t.in) < length {
		t.in = make([]byte, length)
	}
	payload = t.in[:length]
	_, err = io.ReadFull(t.reader, payload)
	if mask != [4]byte{} {
		for index := range payload {
			payload[index] ^= mask[index&3]
		}
	}
	return head[0] & 15, payload, err
}

// A client's mask is zero here: the load should cost little beside what it loads.
func (t *tunnel) send(opcode byte, payload []byte, isClient bool) error {
	frame := append(t.out[:0], 128|opcode)
	masked := byte(0)
	if isClient {
		masked = 128
	}
	if len(payload) < 126 {
		frame = append(frame, masked|byte(len(payload)))
	} else {
		frame = append(frame, masked|126, byte(len(payload)>>8), byte(len(payload)))
	}
	if isClient {
		frame = append(frame, 0, 0, 0, 0)
	}
	t.out = append(frame, payload...)
	_, err := t.conn.Write(t.out)
	return err
}

// The service's end: every message goes back as it came.
func echo(answer http.ResponseWriter, request *http.Request) {
	digest := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, both, err := answer.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(digest[:])+"\r\n\r\n")
	end := &tunnel{conn: conn, reader: both.Reader}
	for {
		opcode, payload, err := end.receive()
		if err != nil || end.send(opcode, payload, false) != nil || opcode == closing {
			return
		}
	}
}
