//! The client of an identity provider: OpenID Connect discovery, and the authorization code flow with PKCE, state and
//! nonce.
//!
//! | module | holds |
//! |---|---|
//! | this one | requests to the provider, and the verification of what it returns |
//! | [`claims`] | what the verified claims mean: name, role, who may join |
//!
//! The provider is asked for its configuration when somebody first signs in, so that the server starts without it.

pub(crate) mod claims;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use faultline_domain::Clock;
use faultline_store::Secret;
use jiff::{SignedDuration, Timestamp};
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AuthType, AuthorizationCode, ClaimsVerificationError,
    Client, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdTokenClaims, IdTokenFields,
    IssuerUrl, LogoutRequest, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier,
    PostLogoutRedirectUrl, ProviderMetadataWithLogout, RedirectUrl, RequestTokenError, Scope,
    SignatureVerificationError, StandardErrorResponse, StandardTokenResponse, TokenResponse,
    UserInfoClaims,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreClientAuthMethod,
        CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
        CoreJwsSigningAlgorithm, CoreRevocableToken, CoreRevocationErrorResponse,
        CoreTokenIntrospectionResponse, CoreTokenType,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ureq::tls::{RootCerts, TlsConfig};

use self::claims::Claims;
use crate::{
    config::oidc::{Oidc, OidcError},
    lock::lock,
};

/// How long the provider's configuration and keys are used before they are requested again.
const FRESH: SignedDuration = SignedDuration::from_mins(10);
/// The time limit of a request to the provider.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of the provider's response, in bytes.
const MAX_RESPONSE: u64 = 1024 * 1024;

/// The claims of a provider that are not standard ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Extra(Map<String, Value>);
impl AdditionalClaims for Extra {}

type Fields = IdTokenFields<
    Extra,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Tokens = StandardTokenResponse<Fields, CoreTokenType>;
type OidcClient = Client<
    Extra,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    Tokens,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why the provider did not sign a person in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The provider can't be reached, or its configuration is not usable.
    #[error("the identity provider can't be used: {0}")]
    Unavailable(String),
    /// The provider refused the code.
    #[error("the identity provider refused the code: {0}")]
    Refused(String),
    /// What the provider returned is not valid.
    #[error("the identity provider's answer is not valid: {0}")]
    Invalid(String),
}

/// Who the provider says that a person is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The provider's issuer URL.
    pub issuer: String,
    /// The person's ID at the provider. It is unique for an issuer and never given to somebody else, unlike an address.
    pub subject: String,
    pub claims: Claims,
}

/// What the server remembers of a sign-in that has begun.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// The value that the provider sends back with the code.
    pub state: Secret,
    /// The value that must be in the ID token.
    nonce: Secret,
    /// The secret without which the code is worth nothing.
    verifier: Secret,
}

/// The configured identity provider.
#[derive(Debug)]
pub(crate) struct Provider {
    pub settings: Oidc,
    issuer: IssuerUrl,
    secret: Option<ClientSecret>,
    redirect: RedirectUrl,
    /// Where the provider leads a browser that it has signed out.
    signed_out: PostLogoutRedirectUrl,
    agent: ureq::Agent,
    clock: Clock,
    /// The provider's configuration with its keys, and when it was requested.
    metadata: Mutex<Option<(Timestamp, Box<ProviderMetadataWithLogout>)>>,
}

impl Provider {
    /// Checks the settings. `public_url` is this server's URL.
    pub(crate) fn new(settings: Oidc, public_url: &str, clock: Clock) -> Result<Self, OidcError> {
        let (issuer, secret) = settings.check()?;
        let base = public_url.trim_end_matches('/');
        let redirect = format!("{base}/sign-in/oidc/callback");
        let signed_out = format!("{base}/sign-in");
        Ok(Self {
            issuer,
            secret: secret.map(ClientSecret::new),
            redirect: RedirectUrl::new(redirect)
                .map_err(|_| OidcError::NotAUrl(public_url.to_owned()))?,
            signed_out: PostLogoutRedirectUrl::new(signed_out)
                .map_err(|_| OidcError::NotAUrl(public_url.to_owned()))?,
            agent: ureq::Agent::config_builder()
                .timeout_global(Some(TIMEOUT))
                // Otherwise a provider could make this server send requests elsewhere.
                .max_redirects(0)
                .http_status_as_error(false)
                .tls_config(
                    TlsConfig::builder()
                        .root_certs(RootCerts::PlatformVerifier)
                        .build(),
                )
                .build()
                .into(),
            metadata: Mutex::default(),
            settings,
            clock,
        })
    }

    /// Returns the URL to which a browser is sent, and what to remember meanwhile. `secret` generates secrets.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        secret: impl Fn() -> Secret,
    ) -> Result<(String, Attempt), Error> {
        let client = self.client(false).await?;
        let attempt = Attempt {
            state: secret(),
            nonce: secret(),
            verifier: secret(),
        };
        let value = |secret: &Secret| secret.expose().to_owned();
        let (state, nonce) = (value(&attempt.state), value(&attempt.nonce));
        let verifier = PkceCodeVerifier::new(value(&attempt.verifier));
        let (url, ..) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                || CsrfToken::new(state),
                || Nonce::new(nonce),
            )
            .add_scopes(self.settings.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok((url.into(), attempt))
    }

    /// Exchanges a code for tokens, and verifies them.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        attempt: Attempt,
        code: String,
    ) -> Result<Identity, Error> {
        let client = self.client(false).await?;
        let provider = self.clone();
        let (tokens, client) = blocking(move || {
            let http = |request| provider.send(request);
            let exchange = client
                .exchange_code(AuthorizationCode::new(code))
                .map_err(|e| Error::Unavailable(e.to_string()))?
                .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.expose().to_owned()));
            match exchange.request(&http) {
                Ok(tokens) => Ok((tokens, client)),
                Err(RequestTokenError::ServerResponse(e)) => Err(Error::Refused(e.to_string())),
                Err(RequestTokenError::Request(e)) => Err(Error::Unavailable(chain(&e))),
                Err(e) => Err(Error::Invalid(chain(&e))),
            }
        })
        .await?;
        let nonce = Nonce::new(attempt.nonce.expose().to_owned());
        let claims = match self.verify(&client, &tokens, &nonce) {
            // The provider may have new keys.
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey,
            )) => {
                let client = self.client(true).await?;
                self.verify(&client, &tokens, &nonce)
            }
            verified => verified,
        };
        let claims = claims.map_err(|e| Error::Invalid(chain(&e)))?;
        let issuer = claims.issuer().to_string();
        let subject = claims.subject().to_string();
        let userinfo = self.userinfo(client, &tokens, &claims).await?;
        Ok(Identity {
            issuer,
            subject,
            claims: Claims::new(object(&claims)?, userinfo),
        })
    }

    /// Verifies the ID token: signature, issuer, audience, times, nonce, and that the access token belongs to it.
    fn verify(
        &self,
        client: &OidcClient,
        tokens: &Tokens,
        nonce: &Nonce,
    ) -> Result<IdTokenClaims<Extra, CoreGenderClaim>, ClaimsVerificationError> {
        let clock = self.clock.clone();
        let now = move || {
            let now = clock.now();
            chrono::DateTime::from_timestamp(now.as_second(), 0).unwrap_or_default()
        };
        let verifier = client.id_token_verifier().set_time_fn(now);
        let other = |text: &str| ClaimsVerificationError::Other(text.to_owned());
        let token = tokens
            .id_token()
            .ok_or_else(|| other("there is no ID token"))?;
        let claims = token.claims(&verifier, nonce)?;
        if let Some(expected) = claims.access_token_hash() {
            let algorithm = token.signing_alg().map_err(|e| other(&e.to_string()))?;
            let key = token
                .signing_key(&verifier)
                .map_err(|e| other(&e.to_string()))?;
            let actual = AccessTokenHash::from_token(tokens.access_token(), algorithm, key);
            if actual.ok().as_ref() != Some(expected) {
                return Err(other("the access token belongs to another ID token"));
            }
        }
        Ok(claims.clone())
    }

    /// Returns the claims of the userinfo endpoint; none if the provider has no such endpoint.
    async fn userinfo(
        self: &Arc<Self>,
        client: OidcClient,
        tokens: &Tokens,
        claims: &IdTokenClaims<Extra, CoreGenderClaim>,
    ) -> Result<Map<String, Value>, Error> {
        let (token, subject) = (tokens.access_token().clone(), claims.subject().clone());
        let provider = self.clone();
        blocking(move || {
            let Ok(request) = client.user_info(token, Some(subject)) else {
                return Ok(Map::new());
            };
            let http = |request| provider.send(request);
            let claims: Result<UserInfoClaims<Extra, CoreGenderClaim>, _> = request.request(&http);
            object(&claims.map_err(|e| Error::Invalid(chain(&e)))?)
        })
        .await
    }

    /// Returns the URL that ends a person's session at the provider; none if it has no such endpoint.
    ///
    /// It names this client and not the person's ID token, which would have to be kept for it. So the provider asks the person
    /// whether they want to sign out.
    pub(crate) async fn end_session_url(self: &Arc<Self>) -> Result<Option<String>, Error> {
        let metadata = self.metadata(false).await?;
        let Some(endpoint) = &metadata.additional_metadata().end_session_endpoint else {
            return Ok(None);
        };
        // The browser follows it, so it must not be less safe than the issuer.
        let scheme = endpoint.url().scheme();
        if scheme != "https" && scheme != self.issuer.url().scheme() {
            let why = format!("its end_session_endpoint begins with {scheme}:");
            return Err(Error::Invalid(why));
        }
        let request = LogoutRequest::from(endpoint.clone())
            .set_client_id(ClientId::new(self.settings.client_id.clone()))
            .set_post_logout_redirect_uri(self.signed_out.clone());
        Ok(Some(request.http_get_url().into()))
    }

    /// Returns the provider's configuration, which is requested again if it is not fresh.
    async fn metadata(
        self: &Arc<Self>,
        anew: bool,
    ) -> Result<Box<ProviderMetadataWithLogout>, Error> {
        let now = self.clock.now();
        let known = lock(&self.metadata).clone();
        if let Some((at, metadata)) = known
            && !anew
            && now.duration_since(at) < FRESH
        {
            return Ok(metadata);
        }
        let provider = self.clone();
        let found = blocking(move || {
            let http = |request| provider.send(request);
            ProviderMetadataWithLogout::discover(&provider.issuer, &http)
                .map_err(|e| Error::Unavailable(chain(&e)))
        })
        .await?;
        let found = Box::new(found);
        *lock(&self.metadata) = Some((now, found.clone()));
        Ok(found)
    }

    /// Returns a client with the provider's configuration.
    async fn client(self: &Arc<Self>, anew: bool) -> Result<OidcClient, Error> {
        let metadata = self.metadata(anew).await?;
        let methods = metadata.token_endpoint_auth_methods_supported();
        let supports = |method| methods.is_none_or(|all| all.contains(&method));
        let in_body = !supports(CoreClientAuthMethod::ClientSecretBasic)
            && supports(CoreClientAuthMethod::ClientSecretPost);
        let id = ClientId::new(self.settings.client_id.clone());
        let client = Client::from_provider_metadata(*metadata, id, self.secret.clone())
            .set_redirect_uri(self.redirect.clone());
        Ok(if in_body {
            client.set_auth_type(AuthType::RequestBody)
        } else {
            client
        })
    }

    /// Sends a request to the provider.
    fn send(&self, request: HttpRequest) -> Result<HttpResponse, ureq::Error> {
        let mut response = self.agent.run(request)?;
        let body = response
            .body_mut()
            .with_config()
            .limit(MAX_RESPONSE)
            .read_to_vec()?;
        let (parts, _) = response.into_parts();
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// Runs `work`, which sends requests, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::Unavailable(e.to_string()))?
}

/// Returns claims as an object.
fn object(claims: &impl Serialize) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(claims) {
        Ok(Value::Object(all)) => Ok(all),
        _ => Err(Error::Invalid("the claims are no object".to_owned())),
    }
}

/// Formats an error with its sources.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    text
}
