// Small Go programs in one, for the bench: what the wrapper is measured against, services, and crowds of clients.
//
//	peer proxy LISTEN UPSTREAM [CERT KEY]     net/http/httputil.ReverseProxy with its usual set-up; with TLS
//	peer keeper LISTEN UPSTREAM COMMAND...    the same, and the service as its child: HUP restarts it, its end too
//	peer service LISTEN [SECONDS]             the service below, which listens SECONDS after its start
//	peer late LISTEN SECONDS LOG              listens SECONDS after its start, appends its pid and queries to LOG
//	peer crowd LOAD URL ...                   see crowd.go
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func proxy(upstream string) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// The default of 2 kept connections a host makes Go reconnect all the time; no proxy should be measured like that.
	transport.MaxIdleConns = 0
	transport.MaxIdleConnsPerHost = 10_000
	transport.DisableCompression = true
	target := &url.URL{Scheme: "http", Host: upstream}
	reverse := httputil.NewSingleHostReverseProxy(target) // adds X-Forwarded-For and keeps Host
	direct := reverse.Director
	reverse.Director = func(request *http.Request) {
		direct(request)
		scheme := "http"
		if request.TLS != nil {
			scheme = "https"
		}
		request.Header.Set("X-Forwarded-Proto", scheme)
		request.Header.Set("X-Forwarded-Host", request.Host)
	}
	reverse.Transport = transport
	reverse.ErrorLog = log.New(io.Discard, "", 0) // a line for each client that leaves would cost Go time
	return reverse
}

// What waits at the service, and the bytes of downloads it has got rid of: what /open answers.
var waiting, written int64

func service() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) { io.WriteString(answer, "ok") })
	mux.HandleFunc("/slow", func(answer http.ResponseWriter, _ *http.Request) {
		time.Sleep(100 * time.Millisecond)
		io.WriteString(answer, "ok")
	})
	mux.HandleFunc("/upload", func(answer http.ResponseWriter, request *http.Request) {
		count, _ := io.Copy(io.Discard, request.Body)
		fmt.Fprint(answer, count)
	})
	mux.HandleFunc("/events", events)
	mux.HandleFunc("/download", download)
	mux.HandleFunc("/echo", counted(echo))
	mux.HandleFunc("/stream", counted(stream))
	mux.HandleFunc("/poll", counted(poll))
	mux.HandleFunc("/open", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(answer, "%d %d", atomic.LoadInt64(&waiting), atomic.LoadInt64(&written))
	})
	return mux
}

func counted(handle http.HandlerFunc) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		atomic.AddInt64(&waiting, 1)
		defer atomic.AddInt64(&waiting, -1)
		handle(answer, request)
	}
}

// Every 5 ms one event that holds the time it was written at, in ns since the epoch.
func events(answer http.ResponseWriter, request *http.Request) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	begin(answer)
	for {
		select {
		case <-request.Context().Done():
			return
		case <-ticker.C:
			fmt.Fprintf(answer, "data: %d\n\n", time.Now().UnixNano())
			answer.(http.Flusher).Flush()
		}
	}
}

// One event, and then none until the client leaves.
func stream(answer http.ResponseWriter, request *http.Request) {
	begin(answer)
	io.WriteString(answer, "data: 1\n\n")
	answer.(http.Flusher).Flush()
	<-request.Context().Done()
}

func begin(answer http.ResponseWriter) {
	answer.Header().Set("Content-Type", "text/event-stream")
	answer.(http.Flusher).Flush()
}

// Nothing until the client leaves.
func poll(_ http.ResponseWriter, request *http.Request) {
	<-request.Context().Done()
}

// 1 GiB.
func download(answer http.ResponseWriter, _ *http.Request) {
	answer.Header().Set("Content-Length", strconv.Itoa(1<<30))
	piece := make([]byte, 64<<10)
	for sent := 0; sent < 1<<30; sent += len(piece) {
		if _, err := answer.Write(piece); err != nil {
			return
		}
		atomic.AddInt64(&written, int64(len(piece)))
	}
}

// Answers what it has begun before it goes, as a good service does; /die ends it at once.
func late(listen string, seconds string, path string) {
	sleep(seconds)
	seen, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(seen, "pid %d\n", os.Getpid())
	server := &http.Server{Addr: listen, Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/die" {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		if request.URL.RawQuery != "" {
			seen.WriteString(request.URL.RawQuery + "\n")
		}
		io.WriteString(answer, "ok")
	})}
	stopped := make(chan struct{})
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		<-signals
		server.Shutdown(context.Background())
		close(stopped)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stopped
}

// The service as a child, started again on HUP and when it ends.
func keep(command []string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	for {
		child := exec.Command(command[0], command[1:]...)
		if err := child.Start(); err != nil {
			log.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- child.Wait() }()
		select {
		case <-ended:
		case got := <-signals:
			child.Process.Signal(syscall.SIGTERM)
			<-ended
			if got == syscall.SIGTERM {
				os.Exit(0)
			}
		}
	}
}

func sleep(seconds string) {
	span, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		log.Fatal(err)
	}
	time.Sleep(time.Duration(span * float64(time.Second)))
}

func main() {
	words := os.Args[2:]
	switch os.Args[1] {
	case "late":
		late(words[0], words[1], words[2])
	case "crowd":
		crowd(words)
	case "service":
		if len(words) > 1 {
			sleep(words[1])
		}
		log.Fatal(http.ListenAndServe(words[0], service()))
	case "keeper":
		go keep(words[2:])
		log.Fatal(http.ListenAndServe(words[0], proxy(words[1])))
	case "proxy":
		if len(words) > 2 {
			log.Fatal(http.ListenAndServeTLS(words[0], words[2], words[3], proxy(words[1])))
		}
		log.Fatal(http.ListenAndServe(words[0], proxy(words[1])))
	}
}
