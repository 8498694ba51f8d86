//! The service behind the gateways: nginx, which answers each request at once. No HTTP
//! server costs less, so the wait is for the gateway.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client::{Request, Target};
use crate::load::program;
use crate::wait;

/// A running nginx; it ends when it is dropped, and with its parent process.
pub(crate) struct Service {
    child: Child,
}

impl Service {
    /// Starts nginx on this port, with its files in this folder.
    pub(crate) fn start(folder: &Path, port: u16) -> Self {
        let folder = folder.join("service");
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(&folder, port)).expect("a configuration");
        let nginx = program("NGINX_PROGRAM");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", &nginx, "-e", "stderr", "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .expect("setpriv, of util-linux");
        let service = Self { child };
        wait::until("the service", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
        });
        let answer = Target::local(port).send(&Request::orders());
        assert_eq!(answer.status, 200, "{}", answer.describe());
        service
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .join(" ");
    // One process, so that ending it ends nginx.
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; {temporary}
  keepalive_timeout 600s; keepalive_requests 1000000000; large_client_header_buffers 4 96k;
  server {{
    listen 127.0.0.1:{port};
    location / {{ default_type application/json; return 200 '{{\"orders\":[]}}'; }}
  }}
}}
"
    )
}
